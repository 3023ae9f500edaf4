{{/*
The servers, as YAML by their component: that of modelName, and those of models, each with all of its values.
*/}}
{{- define "model-server.servers" -}}
{{- $all := omit .Values "global" "common" "enabled" "modelName" "models" -}}
{{- $servers := dict "model-server" (merge (dict "model" .Values.modelName) $all) -}}
{{- range $name, $own := .Values.models -}}
{{- $_ := set $servers (printf "model-server-%s" $name) (mergeOverwrite (deepCopy $all) (dict "model" $name) $own) -}}
{{- end -}}
{{- toYaml $servers -}}
{{- end -}}

{{/*
The same of those that are rolled to the version in production. A model that two of them serve would be rolled on one.
*/}}
{{- define "model-server.rolled" -}}
{{- $rolled := dict -}}
{{- $models := dict -}}
{{- range $component, $values := include "model-server.servers" . | fromYaml -}}
{{- if eq $values.alias "production" -}}
{{- with get $models $values.model -}}
{{- fail (printf "the model %q has two servers of the alias production, %s and %s: take it out of models, or set another modelName" $values.model . $component) -}}
{{- end -}}
{{- $_ := set $models $values.model $component -}}
{{- $_ := set $rolled $component $values -}}
{{- end -}}
{{- end -}}
{{- toYaml $rolled -}}
{{- end -}}

{{/*
What a server opens beside MLflow, by the names in mlops/needs.py, as YAML.
  (dict "values" the server's)
*/}}
{{- define "model-server.needs" -}}
{{- $needs := list -}}
{{- if .values.onlineFeatures -}}
{{- $needs = append $needs "redis" -}}
{{- end -}}
{{- if gt (float64 .values.log.share) 0.0 -}}
{{- $needs = append $needs "s3" -}}
{{- end -}}
{{- toYaml $needs -}}
{{- end -}}

{{/*
What templates of this chart and of the library take of a server.
  (dict "root" $ "component" "model-server-ads" "values" the server's)
*/}}
{{- define "model-server.server" -}}
{{- $reads := list -}}
{{- range include "model-server.needs" . | fromYamlArray -}}
{{- $reads = concat $reads (eq . "redis" | ternary (list "redis/features-password") (list "s3-serving/access-key" "s3-serving/secret-key")) -}}
{{- end -}}
{{- toYaml (dict "component" .component "role" "model-server" "values" .values "history" .values.revisionHistoryLimit "reads" $reads) -}}
{{- end -}}

{{/*
The address of a server.
  (dict "root" $ "component" "model-server-ads")
*/}}
{{- define "model-server.url" -}}
{{- if eq .component "model-server" -}}
{{- include "common.serviceUrl" (dict "root" .root "service" "modelServer") -}}
{{- else -}}
{{ include "common.serviceScheme" (dict "root" .root "service" "modelServer") }}://{{ include "common.fullname" . }}:{{ include "common.servicePort" (dict "root" .root "service" "modelServer") }}
{{- end -}}
{{- end -}}
