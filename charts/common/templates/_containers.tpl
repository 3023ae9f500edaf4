{{/*
The image of a container, and when nodes pull it.
  (dict "root" $ "image" "mlflow")
*/}}
{{- define "common.containerImage" -}}
image: {{ include "common.image" (dict "root" .root "name" .image) }}
imagePullPolicy: {{ .root.Values.global.images.pullPolicy }}
{{- end -}}

{{/*
The securityContext of a container: with the pod's, what Pod Security "restricted" asks for, and a read-only root.
*/}}
{{- define "common.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
The end of a container: its rights and what it can write to. More mounts may follow. Its pod has common.volumes.
  (dict "root" $ "data" "/data" "certificate" "redis"), the folder of a store's volume, and the component whose certificate it
shows, where it is a server; or $ itself
*/}}
{{- define "common.containerDefaults" -}}
securityContext:
  {{- include "common.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  {{- with .data }}
  - name: data
    mountPath: {{ . }}
  {{- end }}
  - name: tmp
    mountPath: /tmp
  {{- with include "common.tls.mounts" (dict "root" (.root | default .) "certificate" .certificate) }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
The probes of a server. Ready is one that answers within 10 s. One that has answered nothing for ten minutes is restarted:
on a node where ten threads wait for each core an answer takes many times as long as on an idle one, and a restart longer.
  (dict "ask" "httpGet: {path: /health, port: http}" "startupFailures" 150 "alive" "exec: {command: [...]}")
startupFailures: of tries every 2 s. alive: what the liveness probe asks where it is something else.
*/}}
{{- define "common.probes" -}}
startupProbe:
  {{ .ask }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: {{ .startupFailures }}
readinessProbe:
  {{ .ask }}
  periodSeconds: 5
  timeoutSeconds: 10
livenessProbe:
  {{ .alive | default .ask }}
  periodSeconds: 30
  timeoutSeconds: 30
  failureThreshold: 20
{{- end -}}
