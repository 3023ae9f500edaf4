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
What each container opens beside Airflow's database, whose secrets all of them read: connections and variables are
encrypted in it. As YAML, by the container:
  tokens         it signs or checks the tokens of Airflow's APIs: who has this secret is whoever he says he is. The executor
                 signs those of tasks, in the scheduler
  logs           it serves the logs of what still runs, or asks for them
  s3             it writes logs to the bucket, or reads them and reports there
  notifications  it runs the callbacks that tell people: those of tasks that failed in the triggerer run in the dag-processor
*/}}
{{- define "airflow.opens" -}}
api-server: [tokens, logs, s3]
scheduler: [tokens, logs, s3, notifications]
triggerer: [logs, s3, notifications]
dag-processor: [notifications]
setup: []
test: [s3, notifications]
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
{{ include "airflow.secretEnv" (dict "root" $root "name" "AIRFLOW__CORE__FERNET_KEY" "existing" $root.Values.fernetKeySecretName "key" "fernet-key") }}
{{ include "common.postgresql.env" (dict "root" $root "database" "airflow") }}
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
