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
The environment of every Airflow container: where the configuration lies, and what is secret in it.
*/}}
{{- define "airflow.env" -}}
- name: HOME
  value: /tmp
- name: AIRFLOW_CONFIG
  value: /etc/airflow/airflow.cfg
- name: MAESTRO_POD_CONFIG
  value: /etc/maestro
{{ include "airflow.secretEnv" (dict "root" . "name" "AIRFLOW__CORE__FERNET_KEY" "existing" .Values.fernetKeySecretName "key" "fernet-key") }}
{{ include "airflow.secretEnv" (dict "root" . "name" "AIRFLOW__API__SECRET_KEY" "existing" .Values.apiSecretKeySecretName "key" "api-secret-key") }}
{{ include "airflow.secretEnv" (dict "root" . "name" "AIRFLOW__API_AUTH__JWT_SECRET" "existing" .Values.jwtSecretName "key" "jwt-secret") }}
{{ include "common.postgresql.env" (dict "root" . "database" "airflow") }}
{{ include "common.s3.env" (dict "root" . "user" "airflow") }}
{{- with include "common.env.notifications" (dict "root" .) }}
{{ . }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}
