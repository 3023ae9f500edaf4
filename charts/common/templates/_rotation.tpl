{{/*
Which pods start anew when a value of a Secret is another one, as YAML: a component, and each value that its containers
read at their start, as <part>/<key>. PostgreSQL is not listed: it is told of a new password while it runs
(infrastructure/rotate.py). A chart test compares them with what the pods read.
*/}}
{{- define "common.readers" -}}
{{- $airflow := list "airflow-fernet/fernet-key" "airflow-api/api-secret-key" "airflow-jwt/jwt-secret" "postgresql/airflow-password" "s3/root-user" "s3/root-password" "webhook/url" -}}
{{- range $component := list "airflow-api-server" "airflow-scheduler" "airflow-dag-processor" "airflow-triggerer" }}
{{ $component }}: {{ toJson $airflow }}
{{- end }}
mlflow: [postgresql/mlflow-password, s3/root-user, s3/root-password]
feast: [postgresql/feast-password, redis/redis-password, s3/root-user, s3/root-password]
sensor-trainer: [postgresql/sensors-password, redis/redis-password, sensor-trainer/token]
sensor-trainer-worker: [postgresql/sensors-password, redis/redis-password]
postgresql-exporter: [postgresql/monitoring-password]
redis-exporter: [redis/redis-password]
redis: [redis/redis-password]
minio: [s3/root-user, s3/root-password]
{{- end -}}

{{/*
The Secret of a part in common.readers, or nothing. Values that contradict each other are refused where they are used.
  (dict "root" $ "part" "redis")
*/}}
{{- define "common.secretOf" -}}
{{- $values := .root.Values -}}
{{- if eq .part "webhook" -}}
{{- $values.global.notifications.slackWebhookSecret -}}
{{- else -}}
{{- $named := dict "airflow-fernet" $values.fernetKeySecretName "airflow-api" $values.apiSecretKeySecretName "airflow-jwt" $values.jwtSecretName -}}
{{- $_ := set $named "sensor-trainer" (dig "sensorTrainer" "existingSecret" "" $values.global) -}}
{{- range $store := list "postgresql" "redis" "s3" -}}
{{- $_ := set $named $store (dig $store "existingSecret" "" $values.global) -}}
{{- end -}}
{{- $component := eq .part "s3" | ternary "minio" (hasPrefix "airflow-" .part | ternary "airflow" .part) -}}
{{- get $named .part | default (include "common.fullname" (dict "root" .root "component" $component)) -}}
{{- end -}}
{{- end -}}

{{/*
A label of a component's pods that is another one where a value which they read is: so an upgrade, and `make rotate`, start
them anew. Of a value that a chart made it is when it was rotated, since the first install cannot look up what it makes, and
the first upgrade is to restart nothing; of one in a Secret of your own, a hash. infrastructure/rotate.py has the same.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.secretsLabel" -}}
{{- $root := .root -}}
{{- $stamps := list -}}
{{- range $value := index (include "common.readers" . | fromYaml) .component -}}
{{- $part := splitList "/" $value | first -}}
{{- $key := splitList "/" $value | last -}}
{{- with include "common.secretOf" (dict "root" $root "part" $part) -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace . -}}
{{- if $secret -}}
{{- $own := eq (dig "metadata" "annotations" "helm.sh/resource-policy" "" $secret) "keep" -}}
{{- $stamp := ternary (dig "metadata" "annotations" (printf "rotated.maestro/%s" $key) "" $secret) (dig "data" $key "" $secret | sha256sum | trunc 8) $own -}}
{{- if $stamp -}}
{{- $stamps = append $stamps (printf "%s/%s=%s" . $key $stamp) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $stamps | uniq | sortAlpha -}}
maestro/secrets: s{{ join "," . | sha256sum | trunc 12 }}
{{- end -}}
{{- end -}}
