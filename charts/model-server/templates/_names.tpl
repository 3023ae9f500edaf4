{{- define "model-server.fullname" -}}
{{- include "common.fullname" (dict "root" . "component" "model-server") -}}
{{- end -}}

{{- define "model-server.labels" -}}
{{- include "common.labels" (dict "root" . "component" "model-server") -}}
{{- end -}}

{{- define "model-server.selectorLabels" -}}
{{- include "common.selectorLabels" (dict "root" . "component" "model-server") -}}
{{- end -}}

{{/*
The identity of the task that deploys: its service account, Role and RoleBinding.
*/}}
{{- define "model-server.deployer" -}}
{{- include "common.fullname" (dict "root" . "component" "deployer") -}}
{{- end -}}

{{- define "model-server.deployerLabels" -}}
{{- include "common.labels" (dict "root" . "component" "deployer") -}}
{{- end -}}
