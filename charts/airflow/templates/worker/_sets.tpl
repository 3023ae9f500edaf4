{{/*
The workers of CeleryExecutor, as YAML: by component the values of each set, those of `workers` with what workers.sets says
of it, whether it is scaled, and what values call it. Nothing for the other executors.
  (dict "values" .Values), those of this chart
*/}}
{{- define "airflow.workerSets" -}}
{{- if eq .values.executor "CeleryExecutor" -}}
{{- $base := omit .values.workers "sets" -}}
{{- $sets := dict "airflow-worker" $base -}}
{{- range $name, $own := .values.workers.sets -}}
{{- $_ := set $sets (printf "airflow-worker-%s" $name) (mergeOverwrite (deepCopy $base) ($own | default dict)) -}}
{{- end -}}
{{- range $component, $values := $sets }}
{{- $scaler := ternary $values.hpa $values.keda $values.hpa.enabled -}}
{{- $scaling := dict "enabled" $scaler.enabled "minReplicas" $scaler.minReplicaCount "maxReplicas" $scaler.maxReplicaCount -}}
{{- $_ := set $values "autoscaling" $scaling -}}
{{- $_ = set $values "path" (eq $component "airflow-worker" | ternary "workers" (printf "workers.sets.%s" (trimPrefix "airflow-worker-" $component))) -}}
{{- end -}}
{{- toYaml $sets -}}
{{- end -}}
{{- end -}}

{{/*
Ends the rendering where values of workers contradict each other, with the remedy.
  (dict "values" .Values)
*/}}
{{- define "airflow.validateWorkers" -}}
{{- $queues := list -}}
{{- $visible := int (dig "celery_broker_transport_options" "visibility_timeout" 86400 .values.config) -}}
{{- range $component, $set := include "airflow.workerSets" . | fromYaml -}}
{{- $queues = concat $queues (splitList "," $set.queue) -}}
{{- if and $set.hpa.enabled $set.keda.enabled -}}
{{- fail (printf "%s has hpa and keda, which would each scale the same pods: set hpa.enabled or keda.enabled to false" $set.path) -}}
{{- end -}}
{{- if ge (int $set.terminationGracePeriodSeconds) $visible -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d and a message that nobody acknowledged for %d s is given to another worker: while a worker still ends its tasks they would be handed on. Set config.celery_broker_transport_options.visibility_timeout above %d" $set.path (int $set.terminationGracePeriodSeconds) $visible (int $set.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- end -}}
{{- $longest := int (dig "core" "default_task_execution_timeout" 0 .values.config) -}}
{{- if and $queues (ge $longest $visible) -}}
{{- fail (printf "config.core.default_task_execution_timeout is %d and a message that nobody acknowledged for %d s is given to another worker, which a task holds as long as it runs: set config.celery_broker_transport_options.visibility_timeout above %d" $longest $visible $longest) -}}
{{- end -}}
{{- if $queues -}}
{{- range $size, $of := .values.taskSizes -}}
{{- if and $of.queue (not (has $of.queue $queues)) -}}
{{- fail (printf "taskSizes.%s.queue is %q and no worker takes tasks from it (%s): name it in workers.queue, or in the queue of one of workers.sets" $size $of.queue (join ", " ($queues | uniq))) -}}
{{- end -}}
{{- end -}}
{{- $default := dig "operators" "default_queue" "default" .values.config -}}
{{- if not (has $default $queues) -}}
{{- fail (printf "no worker takes tasks from the queue %q, where those go that name none (%s): name it in workers.queue or in the queue of one of workers.sets" $default (join ", " ($queues | uniq))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
