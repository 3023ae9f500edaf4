{{/*
The Secret that a key of ours is read from: one that exists, or the chart's own.
  (dict "root" $ "existing" "the value that may name a Secret")
*/}}
{{- define "airflow.secretName" -}}
{{- .existing | default (include "common.fullname" (dict "root" .root "component" "airflow")) -}}
{{- end -}}

{{/*
One entry of the environment, from a Secret.
  (dict "root" $ "name" "AIRFLOW__API__SECRET_KEY" "existing" "" "key" "api-secret-key")
*/}}
{{- define "airflow.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "airflow.secretName" . }}
      key: {{ .key }}
{{- end -}}

{{/*
What each container opens, as YAML, by the container:
  database       it reads Airflow's database: connections and variables are encrypted in it
  results        it writes into it what became of a message, and reads nothing that is encrypted
  broker         it sends tasks to workers, or takes them, where the executor is Celery
  tokens         it signs or checks the tokens of Airflow's APIs: who has this secret is whoever he says he is. The executor
                 signs those of tasks, in the scheduler
  logs           it serves the logs of what still runs, or asks for them
  s3             it writes logs to the bucket, or reads them and reports there
  notifications  it runs the callbacks that tell people: those of tasks that failed in the triggerer run in the dag-processor
*/}}
{{- define "airflow.opens" -}}
api-server: [database, tokens, logs, s3]
scheduler: [database, tokens, logs, s3, notifications{{ if eq .root.Values.executor "CeleryExecutor" }}, broker{{ end }}]
triggerer: [database, logs, s3, notifications]
dag-processor: [database, notifications]
setup: [database]
test: [database, s3, notifications]
# Who runs the tasks of a DAG and nothing else: these ask the api-server, by a token that came with the task.
celery: [results, broker, logs, s3, notifications]
worker: [s3, notifications]
{{- end -}}

{{/*
The environment of an Airflow container: where the configuration lies, what is secret of what it opens, and which of its
entries are, so that none of them is seen in a log.
  (dict "root" $ "name" "triggerer")
*/}}
{{- define "airflow.env" -}}
{{- $entries := include "airflow.opened" . -}}
{{ $entries }}
- name: MAESTRO_SECRETS
  value: {{ include "airflow.secretNames" $entries | quote }}
{{- end -}}

{{/* The names of those of these entries, as YAML, that come from Secrets, with commas between them. */}}
{{- define "airflow.secretNames" -}}
{{- $names := list -}}
{{- range fromYamlArray . -}}
{{- if dig "valueFrom" "secretKeyRef" "" . -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{- define "airflow.opened" -}}
{{- $opens := get (include "airflow.opens" . | fromYaml) .name -}}
{{- $root := .root -}}
- name: HOME
  value: /tmp
{{- with include "common.tls.env" (dict "root" $root) }}
{{ . }}
{{- end }}
- name: AIRFLOW_CONFIG
  value: /etc/airflow/airflow.cfg
- name: MAESTRO_POD_CONFIG
  value: /etc/maestro
{{- if has "database" $opens }}
{{ include "airflow.secretEnv" (dict "root" $root "name" "AIRFLOW__CORE__FERNET_KEY" "existing" $root.Values.fernetKeySecretName "key" "fernet-key") }}
{{- end }}
{{- if or (has "database" $opens) (has "results" $opens) }}
{{- $pooled := ne .name "setup" }}
{{ include "common.postgresql.env" (dict "root" $root "database" "airflow" "pooled" $pooled) }}
{{- if and $pooled (include "common.postgresql.hasPooler" (dict "root" $root)) }}
# Stronger than airflow.cfg, which holds for what migrates. What asyncpg prepares belongs to a session: it goes past the pooler.
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
  value: {{ include "common.postgresql.url" (dict "root" $root "database" "airflow" "scheme" "postgresql+psycopg2" "pooled" true) | quote }}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC
  value: {{ include "common.postgresql.url" (dict "root" $root "database" "airflow" "scheme" "postgresql+asyncpg") | quote }}
{{- end }}
{{- end }}
{{- $queues := dict }}
{{- range $size, $of := $root.Values.taskSizes }}
{{- with $of.queue }}
{{- $_ := set $queues $size . }}
{{- end }}
{{- end }}
{{- if and $queues (eq .name "dag-processor") }}
# The queue of a size, as JSON, for who reads DAG files.
- name: MAESTRO_TASK_QUEUES
  value: {{ toJson $queues | quote }}
{{- end }}
{{- if has "broker" $opens }}
{{ include "common.redis.env" (dict "root" $root "user" "celery") }}
{{- end }}
{{- if has "tokens" $opens }}
{{ include "airflow.secretEnv" (dict "root" $root "name" "AIRFLOW__API_AUTH__JWT_SECRET" "existing" $root.Values.jwtSecretName "key" "jwt-secret") }}
{{- end }}
{{- if include "common.tls.speaks" (dict "root" $root "component" "airflow-api-server") }}
# By which those who run tasks verify the API that these report to.
- name: AIRFLOW__API__SSL_CA_FILE
  value: {{ include "common.tls.ca" . }}
{{- if eq .name "api-server" }}
- name: AIRFLOW__API__SSL_CERT
  value: /etc/tls/tls.crt
- name: AIRFLOW__API__SSL_KEY
  value: /etc/tls/tls.key
{{- end }}
{{- end }}
{{- if has "logs" $opens }}
{{ include "airflow.secretEnv" (dict "root" $root "name" "AIRFLOW__API__SECRET_KEY" "existing" $root.Values.apiSecretKeySecretName "key" "api-secret-key") }}
{{- end }}
{{- if has "s3" $opens }}
{{ include "common.s3.env" (dict "root" $root "user" "airflow") }}
{{- end }}
{{- if has "notifications" $opens }}
{{- with include "common.env.notifications" (dict "root" $root) }}
{{ . }}
{{- end }}
{{- end }}
{{- with $root.Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where the queue of CeleryExecutor is, without user and password. */}}
{{- define "airflow.brokerUrl" -}}
{{- $redis := dict "root" . -}}
redis{{ if include "common.redis.ca" $redis }}s{{ end }}://{{ include "common.redis.host" $redis }}:{{ include "common.redis.port" $redis }}/{{ .Values.broker.database }}
{{- end -}}
