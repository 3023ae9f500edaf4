{{/*
What the registry's content depends on: the definitions, which are in the image, the registry's database, and the address
of the offline store, which the registry holds. The Job marks it when it is done, and the server's pods wait for it.
*/}}
{{- define "feast.revision" -}}
{{- $image := include "common.image" (dict "root" . "name" "feast") -}}
{{- $registry := include "common.postgresql.url" (dict "root" . "database" "feast") -}}
{{- $store := include "common.s3.endpoint" (dict "root" .) -}}
{{- printf "%s %s %s/%s" $image $registry $store .Values.global.buckets.feast | sha256sum | trunc 8 -}}
{{- end -}}

{{/*
The spec of the Job that applies the feature definitions. Exit code 65 is a refusal, which comes again however often it
is tried (mlops.result.EXIT_REFUSED); with it the Job has failed, and its log holds the difference.
*/}}
{{- define "feast.applySpec" -}}
backoffLimit: 10
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {operator: In, values: [65]}
template:
  metadata:
    labels:
      {{- include "common.labels" (dict "root" . "component" "feast-apply") | nindent 6 }}
  spec:
    restartPolicy: Never
    {{- include "common.podDefaults" (dict "root" . "values" .Values) | nindent 4 }}
    containers:
      - name: apply
        image: {{ include "common.image" (dict "root" . "name" "feast") }}
        imagePullPolicy: {{ .Values.global.images.pullPolicy }}
        args:
          - sh
          - -euc
          - |
            python -m mlops features apply
            release-gate mark feast {{ include "feast.revision" . }}
        env:
          {{- include "feast.env" . | nindent 10 }}
          {{- include "common.env.mlflow" (dict "root" .) | nindent 10 }}
          {{- include "common.postgresql.env" (dict "root" . "database" "feast") | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        resources:
          {{- toYaml .Values.apply.resources | nindent 10 }}
        securityContext:
          {{- include "common.containerSecurityContext" (dict "root" .) | nindent 10 }}
        volumeMounts:
          - name: tmp
            mountPath: /tmp
    volumes:
      - name: tmp
        emptyDir: {}
{{- end -}}
