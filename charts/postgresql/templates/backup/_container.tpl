{{/* Backs the server up, as its superuser; its files it reads from the volume, which it cannot write to. */}}
{{- define "postgresql.backupContainer" -}}
- name: backup
  {{- include "common.containerImage" (dict "root" . "image" "postgresql") | nindent 2 }}
  args: [postgresql-backup]
  env:
    - name: PGHOST
      value: {{ include "common.postgresql.host" (dict "root" .) }}
    - name: PGPORT
      value: {{ include "common.postgresql.port" (dict "root" .) | quote }}
    - name: PGCONNECT_TIMEOUT
      value: "10"
    - name: PGPASSWORD
      valueFrom:
        secretKeyRef:
          name: {{ include "common.postgresql.secretName" (dict "root" .) }}
          key: postgres-password
    {{- with include "common.postgresql.tlsEnv" (dict "root" .) }}
    {{- . | nindent 4 }}
    {{- end }}
    - name: FULL_DAYS
      value: {{ .Values.backup.fullDays | quote }}
    - name: RETAINED_FULL
      value: {{ .Values.backup.retainedFull | quote }}
    {{- include "postgresql.repositoryEnv" . | nindent 4 }}
  resources:
    {{- toYaml .Values.backup.resources | nindent 4 }}
  {{- include "common.containerDefaults" . | nindent 2 }}
    {{- include "postgresql.backupKeysMount" . | nindent 4 }}
    - name: data
      mountPath: /var/lib/postgresql/data
      readOnly: true
{{- end -}}

{{/* A backup's pod: on the server's node, where a volume of one node can be mounted once more. */}}
{{- define "postgresql.backupJob" -}}
{{- $server := dict "root" . "component" "postgresql" -}}
{{- $beside := dict "labelSelector" (dict "matchLabels" (include "common.selectorLabels" $server | fromYaml)) "topologyKey" "kubernetes.io/hostname" -}}
{{- $podAffinity := dict "requiredDuringSchedulingIgnoredDuringExecution" (list $beside) -}}
values:
  {{- $values := pick .Values "priorityClassName" "nodeSelector" "tolerations" }}
  {{- toYaml (set $values "affinity" (merge (dict "podAffinity" $podAffinity) .Values.affinity)) | nindent 2 }}
container: |-
  {{- include "postgresql.backupContainer" . | nindent 2 }}
volumes: |-
  {{- include "postgresql.backupKeysVolume" . | nindent 2 }}
  - name: data
    persistentVolumeClaim:
      claimName: data-{{ include "common.fullname" $server }}-0
{{- end -}}
