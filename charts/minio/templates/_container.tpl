{{- define "minio.env" -}}
{{- $secret := include "common.s3.secretName" (dict "root" .) -}}
- name: MINIO_ROOT_USER
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: root-user
- name: MINIO_ROOT_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: root-password
- name: MINIO_REGION
  value: {{ .Values.global.s3.external.region | quote }}
- name: MINIO_BROWSER
  value: "on"
# Metrics hold no secret, and Prometheus needs no token.
- name: MINIO_PROMETHEUS_AUTH_TYPE
  value: public
# There is no newer version to look for.
- name: MINIO_UPDATE
  value: "off"
- name: HOME
  value: /tmp
{{- end -}}

{{- define "minio.probes" -}}
startupProbe:
  httpGet: {path: /minio/health/live, port: api}
  periodSeconds: 2
  failureThreshold: 150
readinessProbe:
  httpGet: {path: /minio/health/ready, port: api}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /minio/health/live, port: api}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
