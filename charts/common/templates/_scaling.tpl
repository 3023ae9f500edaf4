{{/*
The HorizontalPodAutoscaler of a Deployment, or nothing.
  (dict "root" $ "component" "sensor-trainer" "values" .Values "path" "" "metric" "an entry of spec.metrics as text")
The path is where the values stand, for the message: "worker." below worker.
*/}}
{{- define "sensor-trainer.autoscaler" -}}
{{- $scaling := .values.autoscaling -}}
{{- if $scaling.enabled -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "%sautoscaling.minReplicas is %d and maxReplicas is %d: set minReplicas to at most maxReplicas" .path (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "common.fullname" . }}
  labels:
    {{- include "common.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "common.fullname" . }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    {{- .metric | nindent 4 }}
{{- end -}}
{{- end -}}

{{/*
The PodDisruptionBudget of a Deployment that has more than one pod, or nothing.
  (dict "root" $ "component" "sensor-trainer" "values" .Values)
*/}}
{{- define "sensor-trainer.podDisruptionBudget" -}}
{{- if gt (int (ternary .values.autoscaling.minReplicas .values.replicas .values.autoscaling.enabled)) 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "common.fullname" . }}
  labels:
    {{- include "common.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "common.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}
