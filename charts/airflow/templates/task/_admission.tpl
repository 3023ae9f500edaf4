{{/*
Of which Secrets a task pod may be told, as a list in CEL: `name/key` of all that needs name.
*/}}
{{- define "airflow.taskSecrets" -}}
{{- $refs := list -}}
{{- range $entries := append (values (include "common.environments" . | fromYaml)) .Values.taskPods.env -}}
{{- range $entries -}}
{{- with dig "valueFrom" "secretKeyRef" dict . -}}
{{- $refs = append $refs (printf "%s/%s" .name .key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $refs | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/*
As which service accounts it may run.
*/}}
{{- define "airflow.taskAccounts" -}}
{{- $accounts := list (include "common.fullname" (dict "root" . "component" "task")) -}}
{{- range .Values.taskPods.identities -}}
{{- $accounts = append $accounts (tpl . $) -}}
{{- end -}}
{{- $accounts | uniq | toJson -}}
{{- end -}}

{{/*
Of which images.
*/}}
{{- define "airflow.taskImages" -}}
{{- $images := list -}}
{{- range .Values.taskPods.images -}}
{{- $images = append $images (include "common.image" (dict "root" $ "name" .)) -}}
{{- end -}}
{{- $images | toJson -}}
{{- end -}}

{{/*
That a volume is the authority's certificate, and nothing else of its Secret, where there is TLS.
*/}}
{{- define "airflow.taskCA" -}}
{{- if .Values.global.tls.enabled }} || (has(v.secret) && v.secret.secretName == '{{ include "common.tls.secretName" (dict "root" . "component" "ca") }}' && has(v.secret.items) && v.secret.items.all(i, i.key == 'ca.crt'))
{{- end -}}
{{- end -}}

{{/*
What a task pod is: a list of expressions in CEL, each with what is said where it does not hold.
*/}}
{{- define "airflow.taskPodRules" -}}
- expression: has(variables.pod.metadata.labels) && "app.kubernetes.io/component" in variables.pod.metadata.labels && variables.pod.metadata.labels["app.kubernetes.io/component"] == "task"
  message: it creates and deletes task pods only (app.kubernetes.io/component=task)
- expression: has(variables.spec.serviceAccountName) && variables.spec.serviceAccountName in {{ include "airflow.taskAccounts" . }}
  message: a task pod has the service account of tasks, or one of airflow.taskPods.identities
- expression: variables.spec.containers.size() == 1 && !has(variables.spec.initContainers) && !has(variables.spec.ephemeralContainers)
  message: a task pod has one container
- expression: variables.container.image in {{ include "airflow.taskImages" . }}
  message: a task pod is of one of the images in airflow.taskPods.images
- expression: "!has(variables.container.envFrom)"
  message: a task pod is told of no whole Secret or ConfigMap (envFrom)
- expression: variables.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef) || (e.valueFrom.secretKeyRef.name + "/" + e.valueFrom.secretKeyRef.key) in {{ include "airflow.taskSecrets" . }})
  message: a task pod is told of those Secrets only that a need of mlops/needs.py or airflow.taskPods.env names
- expression: "!has(variables.spec.volumes) || variables.spec.volumes.all(v, has(v.emptyDir) || (has(v.projected) && v.projected.sources.all(s, !has(s.secret) && (!has(s.configMap) || s.configMap.name == 'kube-root-ca.crt'))){{ include "airflow.taskCA" . }})"
  message: a task pod has no volumes but empty ones, the token of its service account, and the certificate by which it verifies servers
{{ include "airflow.restrictedRules" (dict "pod" "a task pod") }}
{{- end -}}
