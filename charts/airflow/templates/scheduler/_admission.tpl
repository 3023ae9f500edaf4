{{/*
Of which Secrets the pod of a worker may be told, as a list in CEL: `name/key` of all that the template names.
*/}}
{{- define "airflow.workerSecrets" -}}
{{- $refs := list -}}
{{- range include "airflow.env" (dict "root" . "name" "worker") | fromYamlArray -}}
{{- with dig "valueFrom" "secretKeyRef" dict . -}}
{{- $refs = append $refs (printf "%s/%s" .name .key) -}}
{{- end -}}
{{- end -}}
{{- $refs | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/*
What the pod of a worker is: a list of expressions in CEL, each with what is said where it does not hold.
*/}}
{{- define "airflow.workerRules" -}}
{{- $image := include "common.image" (dict "root" . "name" "airflow") -}}
{{- $account := include "common.fullname" (dict "root" . "component" "airflow") -}}
- expression: has(variables.pod.metadata.labels) && "app.kubernetes.io/component" in variables.pod.metadata.labels && variables.pod.metadata.labels["app.kubernetes.io/component"] == "airflow-worker" && (request.operation != "UPDATE" || (object.spec == oldObject.spec && has(oldObject.metadata.labels) && "app.kubernetes.io/component" in oldObject.metadata.labels && oldObject.metadata.labels["app.kubernetes.io/component"] == "airflow-worker"))
  message: it makes, labels and deletes pods of workers only (app.kubernetes.io/component=airflow-worker)
- expression: has(variables.spec.serviceAccountName) && variables.spec.serviceAccountName == "{{ $account }}"
  message: a worker has the service account {{ $account }}
- expression: variables.spec.containers.size() == 1 && variables.container.image == "{{ $image }}" && (!has(variables.spec.initContainers) || variables.spec.initContainers.all(c, c.image == "{{ $image }}")) && !has(variables.spec.ephemeralContainers)
  message: a worker is of Airflow's image and has one container
- expression: "!has(variables.container.envFrom) && (!has(variables.spec.initContainers) || variables.spec.initContainers.all(c, !has(c.envFrom) && (!has(c.env) || c.env.all(e, !has(e.valueFrom)))))"
  message: a worker is told of no whole Secret or ConfigMap (envFrom)
- expression: variables.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef) || (e.valueFrom.secretKeyRef.name + "/" + e.valueFrom.secretKeyRef.key) in {{ include "airflow.workerSecrets" . }})
  message: a worker is told of those Secrets only that the chart's template names
- expression: "!has(variables.spec.volumes) || variables.spec.volumes.all(v, has(v.emptyDir) || has(v.configMap) || (has(v.projected) && v.projected.sources.all(s, !has(s.secret))){{ include "airflow.dagsReadOnly" . }}{{ include "airflow.taskCA" . }})"
  message: a worker has no volumes but empty ones, configuration, DAG files to read, the token of its service account, and the certificate by which it verifies servers
{{ include "airflow.restrictedRules" (dict "pod" "a worker") }}
{{- end -}}
