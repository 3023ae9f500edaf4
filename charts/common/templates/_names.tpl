{{/*
The name of a component's objects: <release>-<component>, or <release> where the release is called like the component.
At most 52 characters, so that a Job's hash and a StatefulSet's revision still fit into a label.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.fullname" -}}
{{- $release := .root.Release.Name -}}
{{- $name := ternary $release (printf "%s-%s" $release .component) (eq $release .component) -}}
{{- if gt (len $name) 52 -}}
{{- fail (printf "the name %q has %d characters and may have 52: install under a release name of at most %d characters" $name (len $name) (sub 51 (len .component))) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/*
What a selector matches. Never changes over the life of a release: selectors and volume claim templates are immutable.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/*
All labels of an object. The short ones are for people, who type them: nothing of the platform selects by them. A role is
what several components are alike in, as all model servers are: who may ask them, and what they are asked for.
  (dict "root" $ "component" "mlflow" "role" "model-server"), which most have none of
*/}}
{{- define "common.labels" -}}
{{ include "common.selectorLabels" . }}
app: {{ .component }}
component: {{ .component }}
{{- with .role }}
maestro/role: {{ . }}
{{- end }}
app.kubernetes.io/part-of: maestro
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end -}}

{{/*
The metadata of an object: name and labels; annotations may follow.
  (dict "root" $ "component" "mlflow" "name" "maestro-mlflow-test"), without a name the component's
*/}}
{{- define "common.metadata" -}}
name: {{ if .name }}{{ .name }}{{ else }}{{ include "common.fullname" . }}{{ end }}
labels:
  {{- include "common.labels" . | nindent 2 }}
{{- end -}}
