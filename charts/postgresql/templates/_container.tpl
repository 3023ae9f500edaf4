{{/*
What postgresql-start reads: the databases, and the password of each one's user.
*/}}
{{- define "postgresql.env" -}}
- name: POSTGRES_DATABASES
  value: {{ join " " .Values.global.postgresql.databases | quote }}
- name: POSTGRES_CONFINED
  value: {{ join " " .Values.confined | quote }}
{{- $secret := include "common.postgresql.secretName" (dict "root" .) }}
{{- range prepend .Values.global.postgresql.databases "postgres" }}
- name: {{ . | upper }}_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ . }}-password
{{- end }}
{{- end -}}

{{/*
postgresql-start opens TCP when the databases and users are there, so TCP is what the probes ask by.
*/}}
{{- define "postgresql.probes" -}}
{{- $exec := dict "command" (list "pg_isready" "--host=127.0.0.1" "--username=postgres") -}}
startupProbe:
  exec: {{ toJson $exec }}
  periodSeconds: 2
  timeoutSeconds: 5
  # An hour: a server that was killed recovers first, and would have to begin anew if it were killed again.
  failureThreshold: 1800
readinessProbe:
  exec: {{ toJson $exec }}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  exec: {{ toJson $exec }}
  periodSeconds: 10
  timeoutSeconds: 10
  # A minute: restarts of its own, after a crashed backend, are not to be disturbed.
  failureThreshold: 6
{{- end -}}
