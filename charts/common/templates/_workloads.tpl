{{/*
A Deployment up to the labels of its pods, whose annotations and spec follow. With the strategy Recreate a pod ends before
the next one starts; with none, or RollingUpdate, none ends before another is ready.
  (dict "root" $ "component" "mlflow" "values" .Values "strategy" "Recreate" "history" 3 "surge" "25%")
values: replicas, and autoscaling where there is one. history: earlier states to go back to, Kubernetes' 10 without it.
surge: how many more there are while they are replaced, 1 without it.
*/}}
{{- define "common.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "common.metadata" . | nindent 2 }}
spec:
  {{- if not (.values.autoscaling | default dict).enabled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  {{- if hasKey . "history" }}
  revisionHistoryLimit: {{ .history }}
  {{- end }}
  strategy:
    {{- with .strategy }}
    type: {{ . }}
    {{- end }}
    {{- if ne (.strategy | default "") "Recreate" }}
    rollingUpdate: {maxUnavailable: 0, maxSurge: {{ .surge | default 1 }}}
    {{- end }}
  selector:
    matchLabels:
      {{- include "common.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "common.labels" . | nindent 8 }}
        {{- with include "common.secretsLabel" . }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "common.tls.label" . }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end -}}

{{/*
The StatefulSet of a store, which has one pod and a volume `data`, up to the labels of the pod, whose annotations and
spec follow.
  (dict "root" $ "component" "redis" "values" .Values)
*/}}
{{- define "common.statefulSet" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "common.metadata" . | nindent 2 }}
spec:
  replicas: 1
  # So that an upgrade also replaces a pod that never became ready.
  podManagementPolicy: Parallel
  # Immutable, so it does not follow the name that values give the Service.
  serviceName: {{ include "common.fullname" . }}
  selector:
    matchLabels:
      {{- include "common.selectorLabels" . | nindent 6 }}
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "common.selectorLabels" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .values.persistence.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .values.persistence.size }}
  template:
    metadata:
      labels:
        {{- include "common.labels" . | nindent 8 }}
        {{- with include "common.secretsLabel" . }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "common.tls.label" . }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end -}}
