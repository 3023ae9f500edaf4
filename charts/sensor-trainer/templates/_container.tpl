{{- define "sensor-trainer.databaseEnv" -}}
- name: HOME
  value: /tmp
{{ include "common.postgresql.env" (dict "root" . "database" "sensors") }}
{{- end -}}

{{- define "sensor-trainer.tokenEnv" -}}
- name: SENSOR_TRAINER_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "common.sensorTrainer.secretName" (dict "root" .) }}
      key: token
{{- end -}}

{{/*
Its keys are the fields of mlops.config.SensorSettings. Helm would write a large number with an exponent.
*/}}
{{- define "sensor-trainer.env" -}}
{{ include "sensor-trainer.databaseEnv" . }}
{{- include "common.env" (dict "root" . "needs" (list "redis" "mlflow")) }}
- name: SENSOR_DATASET
  value: {{ .Values.dataset | quote }}
- name: SENSOR_NAMES
  value: {{ join "," .Values.sensors | quote }}
- name: SENSOR_MINIMUM_NEW_READINGS
  value: {{ int64 .Values.minimumNewReadings | quote }}
- name: SENSOR_TRAINING_DAYS
  value: {{ int64 .Values.trainingDays | quote }}
{{- $kept := int64 .Values.retentionDays }}
{{- if and $kept (lt $kept (int64 .Values.trainingDays)) }}
{{- fail (printf "retentionDays is %d and trainingDays is %d: keep readings at least as long as models are trained on them, or 0 for ever" $kept (int64 .Values.trainingDays)) }}
{{- end }}
- name: SENSOR_RETENTION_DAYS
  value: {{ $kept | quote }}
{{- end -}}

{{/*
The container that a pod of the trainer is made for: one command of the platform.
  (dict "root" $ "name" "api" "args" (list ...) "env" "entries as text" "resources" .Values.resources)
*/}}
{{- define "sensor-trainer.container" -}}
- name: {{ .name }}
  image: {{ include "common.image" (dict "root" .root "name" "sensor-trainer") }}
  imagePullPolicy: {{ .root.Values.global.images.pullPolicy }}
  args:
    {{- toYaml .args | nindent 4 }}
  env:
    {{- .env | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  securityContext:
    {{- include "common.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
{{- end -}}

{{/*
All of them ask /health, which answers whatever is away. A pod that left the Service because MLflow is away, as /ready
would have it, would take no readings and give no scores, for which it has no need of MLflow; and where PostgreSQL is away
another pod is no better. A request that needs what is away is told so, by a 503 that names it.
*/}}
{{- define "sensor-trainer.probes" -}}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 2
  timeoutSeconds: 5
  # Five minutes: importing MLflow takes seconds, and many times that on a node that is busy.
  failureThreshold: 150
readinessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
