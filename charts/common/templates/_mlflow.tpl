{{/*
The Secret with the keys writer-password and reader-password.
  (dict "root" $)
*/}}
{{- define "common.mlflow.secretName" -}}
{{- .root.Values.global.mlflow.existingSecret | default (include "common.fullname" (dict "root" .root "component" "mlflow")) -}}
{{- end -}}

{{/*
Entries of a container's environment that MLflow's client reads, and whether models have to be sealed. Another MLflow that global.services.mlflow names may ask
for no password: pods start without the Secret.
  (dict "root" $ "user" "writer"), or "reader"
*/}}
{{- define "common.mlflow.env" -}}
- name: MLFLOW_TRACKING_URI
  value: {{ include "common.serviceUrl" (dict "root" .root "service" "mlflow") | quote }}
- name: MLFLOW_TRACKING_USERNAME
  value: {{ .user }}
- name: MLFLOW_TRACKING_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.mlflow.secretName" . }}
      key: {{ .user }}-password
      optional: true
- name: MAESTRO_REQUIRE_MODEL_DIGESTS
  value: {{ .root.Values.global.mlflow.requireDigests | quote }}
{{- if include "common.tls.speaks" (dict "root" .root "component" "mlflow") }}
- name: MLFLOW_TRACKING_SERVER_CERT_PATH
  value: {{ include "common.tls.ca" . }}
{{- end }}
{{- end -}}
