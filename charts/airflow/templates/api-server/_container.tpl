{{/*
The api-server, in a pod of its own or as a sidecar of the scheduler.
  (dict "root" $ "restartPolicy" "Always"), a restartPolicy for a sidecar only
*/}}
{{- define "airflow.apiServerContainer" -}}
{{- $container := dict "name" "api-server" "values" .root.Values.apiServer "port" (dict "name" "http" "number" 8080) -}}
{{- /* The Service sends no new request here by then. In the scheduler's pod it outlives the scheduler anyway. */ -}}
{{- if not .restartPolicy -}}
{{- $_ := set $container "preStop" "sleep: {seconds: 5}" -}}
{{- end -}}
{{- include "airflow.container" (merge $container (dict "probes" (include "airflow.apiServerProbes" .)) .) -}}
{{- end -}}
