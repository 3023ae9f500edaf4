{{/*
The spec of the Job that creates the missing buckets, once the store has started.
*/}}
{{- define "minio.bucketsSpec" -}}
backoffLimit: 10
template:
  metadata:
    labels:
      {{- include "common.labels" (dict "root" . "component" "minio-buckets") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    {{- include "common.podDefaults" (dict "root" . "values" .Values) | nindent 4 }}
    containers:
      - name: buckets
        image: {{ include "common.image" (dict "root" . "name" "task") }}
        imagePullPolicy: {{ .Values.global.images.pullPolicy }}
        args:
          - python
          - -m
          - mlops
          - ingestion
          - buckets
          - --wait=300
          {{- range values .Values.global.buckets | sortAlpha | uniq }}
          - --name
          - {{ . }}
          {{- end }}
        env:
          {{- include "common.env" (dict "root" . "needs" (list "s3")) | trim | nindent 10 }}
        resources:
          requests: {cpu: 30m, memory: 128Mi}
          limits: {memory: 512Mi}
        securityContext:
          {{- include "common.containerSecurityContext" (dict "root" .) | nindent 10 }}
        volumeMounts:
          - name: tmp
            mountPath: /tmp
    volumes:
      - name: tmp
        emptyDir: {}
{{- end -}}
