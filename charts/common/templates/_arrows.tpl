{{/*
Who may talk to whom, as YAML: the component that is asked, the port of its pods, and who asks. What is not here is not
let through. `opens-<need>` stands for pods of tasks and of commands that open it (mlops/needs.py).
The api-server runs in the scheduler's pod where airflow.scheduler.withApiServer is true, hence both.
*/}}
{{- define "common.arrows" -}}
postgresql:
  5432/TCP: [airflow-api-server, airflow-scheduler, airflow-worker, airflow-dag-processor, airflow-triggerer, airflow-setup, airflow-dags, airflow-retention, airflow-test, mlflow, mlflow-migrate, mlflow-retention, feast, feast-apply, sensor-trainer, sensor-trainer-worker, sensor-trainer-migrate, postgresql-exporter, postgresql-backup, postgresql-pooler, postgresql-stanza, postgresql-test, opens-feast, opens-ledger]
postgresql-pooler:
  6432/TCP: [airflow-api-server, airflow-scheduler, airflow-worker, airflow-dag-processor, airflow-triggerer, airflow-dags, airflow-test, mlflow, feast, feast-apply, postgresql-test, opens-feast]
redis:
  6379/TCP: [airflow-scheduler, airflow-worker, feast, feast-apply, sensor-trainer, sensor-trainer-worker, redis-exporter, redis-test, opens-redis]
minio:
  9000/TCP: [airflow-api-server, airflow-scheduler, airflow-triggerer, airflow-worker, airflow-test, mlflow, feast, feast-apply, postgresql, postgresql-backup, postgresql-stanza, minio-buckets, minio-test, retention, prometheus, opens-s3, opens-feast]
mlflow:
  5000/TCP: [feast-apply, model-server, sensor-trainer, sensor-trainer-worker, mlflow-retention, mlflow-test, retention, prometheus, opens-mlflow, opens-mlflow-reader]
feast:
  6566/TCP: [feast-test]
  8000/TCP: [prometheus]
model-server:
  8080/TCP: [model-server-test, prometheus, opens-model-server]
sensor-trainer:
  8000/TCP: [sensor-trainer-test, prometheus, opens-sensor-trainer]
airflow-api-server:
  8080/TCP: [airflow-scheduler, airflow-worker, airflow-test, opens-airflow]
airflow-scheduler:
  8080/TCP: [airflow-scheduler, airflow-worker, airflow-test, opens-airflow]
  8793/TCP: [airflow-api-server, airflow-scheduler]
airflow-triggerer:
  8794/TCP: [airflow-api-server, airflow-scheduler]
airflow-worker:
  8793/TCP: [airflow-api-server, airflow-scheduler]
statsd:
  9125/UDP: [airflow-api-server, airflow-scheduler, airflow-dag-processor, airflow-triggerer, airflow-worker, airflow-setup, airflow-retention, airflow-test, statsd-test]
  9102/TCP: [airflow-test, statsd-test, prometheus]
pushgateway:
  9091/TCP: [prometheus, opens-pushgateway]
prometheus:
  9090/TCP: [prometheus, grafana, opens-prometheus]
alertmanager:
  9093/TCP: [prometheus]
postgresql-exporter:
  9187/TCP: [prometheus]
redis-exporter:
  9121/TCP: [prometheus]
pod-states:
  8080/TCP: [prometheus]
{{- end -}}

{{/*
Who may leave the namespace, as YAML: for which addresses (global.networkPolicies.outside), and who. Those of a store only
where it is external; then all go there who have an arrow to it.
*/}}
{{- define "common.arrowsOutside" -}}
kubernetes: [airflow-scheduler, airflow-triggerer, airflow-worker, airflow-test, pod-states, opens-kubernetes, opens-model-server]
webhook: [airflow-scheduler, airflow-dag-processor, airflow-triggerer, airflow-worker, airflow-test, alertmanager, opens-notifications]
mail: [airflow-scheduler, airflow-dag-processor, airflow-triggerer, airflow-worker, airflow-test, opens-notifications]
backups: [postgresql, postgresql-backup, postgresql-stanza]
git: [airflow-scheduler, airflow-dag-processor, airflow-worker, airflow-test]
{{- end -}}

{{/*
The ports of what is outside, as JSON: of each where there is something.
  (dict "root" $)
*/}}
{{- define "common.portsOutside" -}}
{{- $global := .root.Values.global -}}
{{- /* The Service's, and those that API servers listen at: what is looked at first depends on the network. */ -}}
{{- $ports := dict "kubernetes" (list 443 6443 8443) -}}
{{- if dig "notifications" "slackWebhookSecret" "" $global -}}
{{- $_ := set $ports "webhook" (list 443) -}}
{{- end -}}
{{- if dig "notifications" "mail" "host" "" $global -}}
{{- $_ := set $ports "mail" (list (int $global.notifications.mail.port)) -}}
{{- end -}}
{{- range $store := list "postgresql" "redis" -}}
{{- $external := dig $store "external" dict $global -}}
{{- if $external.enabled -}}
{{- $_ := set $ports $store (list (int $external.port)) -}}
{{- end -}}
{{- end -}}
{{- $s3 := dig "s3" "external" dict $global -}}
{{- if $s3.enabled -}}
{{- $_ := set $ports "minio" (list (include "common.portOf" ($s3.endpoint | default "") | int)) -}}
{{- end -}}
{{- /* The store of PostgreSQL's backups, where it is another one; told in that chart alone. */ -}}
{{- with dig "s3" "endpoint" "" (.root.Values.backup | default dict) -}}
{{- $_ := set $ports "backups" (list (include "common.portOf" . | int)) -}}
{{- end -}}
{{- /* The repository of DAG files; told in that chart alone. */ -}}
{{- $git := dig "gitSync" dict (.root.Values.dags | default dict) -}}
{{- if $git.enabled -}}
{{- $_ := set $ports "git" (list (include "common.portOfRepository" $git.repo | int)) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{/* The port in an address, such as https://s3.example.com:9000, or that of its scheme; without an address that of https. */}}
{{- define "common.portOf" -}}
{{ regexFind ":[0-9]+$" . | trimPrefix ":" | default (hasPrefix "http:" . | ternary "80" "443") }}
{{- end -}}

{{/* Whether a repository of git is reached by SSH, such as git@git.example.com:team/dags.git: "yes" or nothing. */}}
{{- define "common.bySsh" -}}
{{- if or (regexMatch "^([a-z]+\\+)?ssh://" .) (regexMatch "^[^/:]+@[^/]+:" .) -}}yes{{- end -}}
{{- end -}}

{{/* The port of a repository: the one in its address, or that of how it is reached. */}}
{{- define "common.portOfRepository" -}}
{{- $named := regexFind "^[a-z+]+://[^/]+" . | regexFind ":[0-9]+$" -}}
{{- if and $named (contains "://" .) -}}
{{ trimPrefix ":" $named }}
{{- else -}}
{{ ternary "22" (hasPrefix "http:" . | ternary "80" "443") (include "common.bySsh" . | eq "yes") }}
{{- end -}}
{{- end -}}
