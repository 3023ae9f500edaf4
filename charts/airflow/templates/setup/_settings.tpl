{{/*
A value of `connections` or `variables` as JSON {"v": ...}: each string rendered as a template, and in place of a
secretKeyRef the name of the environment variable that holds it, or nothing where it names no Secret.
  (dict "root" $ "value" value)
*/}}
{{- define "airflow.rendered" -}}
{{- $rendered := .value -}}
{{- if kindIs "string" .value -}}
{{- $rendered = tpl .value .root -}}
{{- else if kindIs "map" .value -}}
{{- $rendered = dict -}}
{{- if hasKey .value "secretKeyRef" -}}
{{- $refs := include "airflow.secretRefs" . | fromJson -}}
{{- $rendered = empty $refs | ternary nil (dict "environment" (keys $refs | join "")) -}}
{{- else -}}
{{- range $key, $value := .value -}}
{{- $entry := include "airflow.rendered" (dict "root" $.root "value" $value) | fromJson -}}
{{- if not (kindIs "invalid" $entry.v) -}}
{{- $_ := set $rendered $key $entry.v -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "v" $rendered | toJson -}}
{{- end -}}

{{/*
The secretKeyRefs in a value that name a Secret, as JSON: environment variable -> secretKeyRef.
  (dict "root" $ "value" value)
*/}}
{{- define "airflow.secretRefs" -}}
{{- $refs := dict -}}
{{- if kindIs "map" .value -}}
{{- with .value.secretKeyRef -}}
{{- with tpl .name $.root -}}
{{- $ref := merge (dict "name" .) $.value.secretKeyRef -}}
{{- $_ := set $refs (include "airflow.secretVariable" $ref) $ref -}}
{{- end -}}
{{- else -}}
{{- range .value -}}
{{- $refs = merge $refs (include "airflow.secretRefs" (dict "root" $.root "value" .) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $refs -}}
{{- end -}}

{{- define "airflow.secretVariable" -}}
SECRET_{{ printf "%s/%s" .name .key | sha256sum | trunc 8 | upper }}
{{- end -}}

{{/*
Entries of the environment that hold the Secrets which connections and variables name.
*/}}
{{- define "airflow.settingsEnv" -}}
{{- range $name, $ref := include "airflow.secretRefs" (dict "root" . "value" (dict "connections" (include "airflow.connections" . | fromYaml) "variables" .Values.variables)) | fromJson }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      {{- toYaml $ref | nindent 6 }}
{{- end }}
{{- end -}}

{{/*
The file that mlops.airflow.administration.setup applies.
*/}}
{{- define "airflow.settings" -}}
{{- $declared := dict "connections" (include "airflow.connections" . | fromYaml) "variables" .Values.variables -}}
{{- $declared = (include "airflow.rendered" (dict "root" . "value" $declared) | fromJson).v -}}
{{- $_ := set $declared "owner" (printf "Helm release %s" .Release.Name) -}}
{{- $_ := set $declared "adminUser" (omit .Values.adminUser "existingSecret") -}}
{{- $_ := set $declared "readOnlyUser" (pick .Values.global.airflow.readOnlyUser "username") -}}
{{- $_ := set $declared "pools" .Values.pools -}}
{{- toYaml $declared -}}
{{- end -}}
