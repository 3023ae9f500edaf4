{{/* What a release calls its backups. */}}
{{- define "postgresql.stanza" -}}
{{ .Values.backup.stanza | default (printf "%s-%s" .Release.Namespace .Release.Name) }}
{{- end -}}

{{/* Whether something of the server's pod opens the backups: "yes" or nothing. */}}
{{- define "postgresql.opensBackups" -}}
{{- if or .Values.backup.enabled .Values.restore.from -}}yes{{- end -}}
{{- end -}}

{{/* The address of the store that holds them. */}}
{{- define "postgresql.backupEndpoint" -}}
{{ .Values.backup.s3.endpoint | default (include "common.s3.endpoint" (dict "root" .)) }}
{{- end -}}

{{/* By which pgbackrest finds the backups, and verifies the store; the keys it reads from files, whenever it is called. */}}
{{- define "postgresql.repositoryEnv" -}}
{{- $s3 := .Values.backup.s3 -}}
- name: PGBACKREST_STANZA
  value: {{ include "postgresql.stanza" . }}
- name: PGBACKREST_REPO1_PATH
  value: /postgresql
- name: PGBACKREST_REPO1_S3_ENDPOINT
  value: {{ include "postgresql.backupEndpoint" . | trimPrefix "https://" | quote }}
- name: PGBACKREST_REPO1_S3_BUCKET
  value: {{ $s3.bucket | default .Values.global.buckets.backups | quote }}
- name: PGBACKREST_REPO1_S3_REGION
  value: {{ $s3.region | default .Values.global.s3.external.region | quote }}
- name: BACKUP_KEYS
  value: /etc/backup-keys
{{- with include "common.tls.env" (dict "root" .) }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Not in the environment: keys that are rotated are read from here, and the server need not start anew. */}}
{{- define "postgresql.backupKeysVolume" -}}
{{- $keys := include "common.s3.keys" (dict "root" . "user" "backups") | fromYaml -}}
{{- if .Values.backup.s3.endpoint -}}
{{- $keys = dict "secret" .Values.backup.s3.existingSecret "accessKey" "access-key" "secretKey" "secret-key" -}}
{{- end -}}
- name: backup-keys
  secret:
    secretName: {{ $keys.secret }}
    items:
      - {key: {{ $keys.accessKey }}, path: access-key}
      - {key: {{ $keys.secretKey }}, path: secret-key}
{{- end -}}

{{- define "postgresql.backupKeysMount" -}}
- name: backup-keys
  mountPath: /etc/backup-keys
  readOnly: true
{{- end -}}
