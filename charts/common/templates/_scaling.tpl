{{/*
The HorizontalPodAutoscaler of a Deployment, or nothing.
  (dict "root" $ "component" "feast" "values" .Values "metric" "spec.metrics as text" "behavior" "spec.behavior as text")
Without a metric the CPU that the pods use of what they request. "path" "worker." for the message, of values below worker.
*/}}
{{- define "common.autoscaler" -}}
{{- $scaling := .values.autoscaling -}}
{{- if $scaling.enabled -}}
{{- include "common.replicas" . -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "common.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "common.fullname" . }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    {{- with .metric }}
    {{- . | nindent 4 }}
    {{- else }}
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $scaling.targetCPUUtilizationPercentage }}
    {{- end }}
  {{- with .behavior }}
  behavior:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/*
Refuses an autoscaler of fewer pods at most than at least; its arguments are those of common.autoscaler, and
"count" "Count" where values call them minReplicaCount and maxReplicaCount, below the path.
*/}}
{{- define "common.replicas" -}}
{{- $scaling := .values.autoscaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $path := printf "%s%s" (.path | default "") (ternary "" "autoscaling." (hasKey . "count")) -}}
{{- $min := printf "minReplica%s" (.count | default "s") -}}
{{- $max := printf "maxReplica%s" (.count | default "s") -}}
{{- fail (printf "%s%s is %d and %s is %d: set %s to at most %s" $path $min (int $scaling.minReplicas) $max (int $scaling.maxReplicas) $min $max) -}}
{{- end -}}
{{- end -}}

{{/*
How many pods a Deployment has at most: those of its autoscaler where there is one, and while it rolls one more, or a quarter.
  (dict "values" .Values "recreated" true), where a pod ends before the next one starts; with "surge" "25%" as common.deployment
*/}}
{{- define "common.podsAtMost" -}}
{{- $scaling := .values.autoscaling | default dict -}}
{{- $most := int (ternary $scaling.maxReplicas .values.replicas ($scaling.enabled | default false)) -}}
{{- $more := ternary (div (add $most 3) 4) 1 (eq (.surge | default "") "25%") -}}
{{- add $most (ternary 0 $more (.recreated | default false)) -}}
{{- end -}}

{{/*
The PodDisruptionBudget of a Deployment that has more than one pod, or nothing.
  (dict "root" $ "component" "feast" "values" .Values)
*/}}
{{- define "common.podDisruptionBudget" -}}
{{- $scaling := .values.autoscaling | default (dict "enabled" false "minReplicas" 0) -}}
{{- if gt (int (ternary $scaling.minReplicas .values.replicas $scaling.enabled)) 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "common.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "common.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}
