{{/*
Which pods start anew when a value of a Secret is another one, as YAML: a component, and each value that its containers
read at their start, as <part>/<key>. PostgreSQL is not listed: it is told of a new password while it runs
(infrastructure/rotate.py). A chart test compares them with what the pods read.
*/}}
{{- define "common.readers" -}}
airflow-api-server: [airflow-fernet/fernet-key, airflow-jwt/jwt-secret, airflow-api/api-secret-key, postgresql/airflow-password, s3-airflow/access-key, s3-airflow/secret-key]
airflow-scheduler: [airflow-fernet/fernet-key, airflow-jwt/jwt-secret, airflow-api/api-secret-key, postgresql/airflow-password, s3-airflow/access-key, s3-airflow/secret-key, webhook/url, mail/from, mail/to, mail/username, mail/password]
airflow-triggerer: [airflow-fernet/fernet-key, airflow-api/api-secret-key, postgresql/airflow-password, s3-airflow/access-key, s3-airflow/secret-key, webhook/url, mail/from, mail/to, mail/username, mail/password]
airflow-worker: [airflow-api/api-secret-key, postgresql/airflow-password, redis/celery-password, s3-airflow/access-key, s3-airflow/secret-key, webhook/url, mail/from, mail/to, mail/username, mail/password]
airflow-dag-processor: [airflow-fernet/fernet-key, postgresql/airflow-password, webhook/url, mail/from, mail/to, mail/username, mail/password]
mlflow: [postgresql/mlflow-password, s3-mlflow/access-key, s3-mlflow/secret-key, mlflow/writer-password, mlflow/reader-password]
feast: [postgresql/feast-password, redis/features-password, s3-feast/access-key, s3-feast/secret-key]
model-server: [mlflow/reader-password]
sensor-trainer: [postgresql/sensors-password, redis/queue-password, mlflow/reader-password, sensor-trainer/token]
sensor-trainer-worker: [postgresql/sensors-password, postgresql/ledger-password, redis/queue-password, mlflow/writer-password]
postgresql-pooler: [postgresql/pooler-password]
postgresql-exporter: [postgresql/monitoring-password]
redis-exporter: [redis/monitoring-password]
redis: [redis/redis-password, redis/features-password, redis/queue-password, redis/celery-password, redis/monitoring-password]
minio: [s3-root/access-key, s3-root/secret-key]
{{- end -}}

{{/*
Where a value of common.readers lies, as YAML: the Secret, or nothing, and the key in it, which users of an external store
may share. A Secret that is not named has to be refused where it is used.
  (dict "root" $ "value" "redis/features-password")
*/}}
{{- define "common.secretOf" -}}
{{- $root := .root -}}
{{- $part := splitList "/" .value | first -}}
{{- $key := splitList "/" .value | last -}}
{{- $secret := "" -}}
{{- if eq $part "webhook" -}}
{{- $secret = $root.Values.global.notifications.slackWebhookSecret -}}
{{- else if eq $part "mail" -}}
{{- $secret = $root.Values.global.notifications.mail.existingSecret -}}
{{- else if has $part (list "postgresql" "redis" "mlflow" "sensor-trainer") -}}
{{- $value := get $root.Values.global (eq $part "sensor-trainer" | ternary "sensorTrainer" $part) -}}
{{- $secret = $value.existingSecret | default (include "common.fullname" (dict "root" $root "component" $part)) -}}
{{- if and (eq $part "redis") (ne $key "redis-password") -}}
{{- $key = include "common.redis.passwordKey" (dict "root" $root "user" (trimSuffix "-password" $key)) -}}
{{- end -}}
{{- else if hasPrefix "s3-" $part -}}
{{- $keys := include "common.s3.keys" (dict "root" $root "user" (trimPrefix "s3-" $part)) | fromYaml -}}
{{- $secret = $keys.secret -}}
{{- $key = eq $key "access-key" | ternary $keys.accessKey $keys.secretKey -}}
{{- else -}}
{{- $values := $root.Values -}}
{{- $named := dict "airflow-fernet" $values.fernetKeySecretName "airflow-api" $values.apiSecretKeySecretName "airflow-jwt" $values.jwtSecretName -}}
{{- $secret = get $named $part | default (include "common.fullname" (dict "root" $root "component" "airflow")) -}}
{{- end -}}
secret: {{ $secret }}
key: {{ $key }}
{{- end -}}

{{/*
A label of a component's pods that is another one where a value which they read is: so an upgrade, and `make rotate`, start
them anew. Of a value that a chart made it is when it was rotated, since the first install cannot look up what it makes, and
the first upgrade is to restart nothing; of one in a Secret of your own, a hash. infrastructure/rotate.py has the same.
  (dict "root" $ "component" "mlflow" "role" "model-server" "reads" (list "redis/features-password"))
role: whose values it reads, where these are not listed for the component itself; reads: more of them.
*/}}
{{- define "common.secretsLabel" -}}
{{- $root := .root -}}
{{- $stamps := list -}}
{{- range $value := concat (index (include "common.readers" . | fromYaml) (.role | default .component) | default list) (.reads | default list) -}}
{{- $place := include "common.secretOf" (dict "root" $root "value" $value) | fromYaml -}}
{{- $key := $place.key -}}
{{- with $place.secret -}}
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
