{{/*
The databases that the pooler serves, each to its own user, as YAML. Who opens others, or needs a session of its own, as
migrations do and the lock of the ledger, asks the server (docs/decisions/0023).
*/}}
{{- define "common.postgresql.pooled" -}}
[airflow, feast, mlflow]
{{- end -}}

{{/*
Whether there is a pooler in front of PostgreSQL: "yes" or nothing.
  (dict "root" $)
*/}}
{{- define "common.postgresql.hasPooler" -}}
{{- if dig "postgresql" "pooler" "enabled" false .root.Values.global -}}yes{{- end -}}
{{- end -}}

{{/*
The host of PostgreSQL, the platform's own or an external one.
  (dict "root" $ "pooled" true), with which it is that of the pooler where there is one
*/}}
{{- define "common.postgresql.host" -}}
{{- $external := .root.Values.global.postgresql.external -}}
{{- if and .pooled (include "common.postgresql.hasPooler" .) -}}
{{- include "common.serviceHost" (dict "root" .root "service" "postgresqlPooler") -}}
{{- else if $external.enabled -}}
{{- required "global.postgresql.external.enabled is true and its host is empty: set global.postgresql.external.host" $external.host -}}
{{- else -}}
{{- include "common.serviceHost" (dict "root" .root "service" "postgresql") -}}
{{- end -}}
{{- end -}}

{{/*
The port of PostgreSQL.
  (dict "root" $ "pooled" true), as common.postgresql.host
*/}}
{{- define "common.postgresql.port" -}}
{{- $external := .root.Values.global.postgresql.external -}}
{{- if and .pooled (include "common.postgresql.hasPooler" .) -}}
{{- include "common.servicePort" (dict "root" .root "service" "postgresqlPooler") -}}
{{- else -}}
{{- ternary $external.port .root.Values.global.services.postgresql.port $external.enabled -}}
{{- end -}}
{{- end -}}

{{/*
The Secret with a key <database>-password for each database.
  (dict "root" $)
*/}}
{{- define "common.postgresql.secretName" -}}
{{- $postgresql := .root.Values.global.postgresql -}}
{{- if and $postgresql.external.enabled (not $postgresql.existingSecret) -}}
{{- fail (printf "an external PostgreSQL needs its passwords: create a Secret with the keys %s-password and set global.postgresql.existingSecret to its name" (join "-password, " $postgresql.databases)) -}}
{{- end -}}
{{- $postgresql.existingSecret | default (include "common.fullname" (dict "root" .root "component" "postgresql")) -}}
{{- end -}}

{{/*
The address of a database without the password, which libpq takes from PGPASSWORD: so any character may be in it, and no
argument or log shows it. A database belongs to the user of the same name.
  (dict "root" $ "database" "mlflow" "scheme" "postgresql+psycopg2" "pooled" true), the scheme "postgresql" where none is given;
pooled: for who needs no session of its own
*/}}
{{- define "common.postgresql.url" -}}
{{- if not (has .database .root.Values.global.postgresql.databases) -}}
{{- fail (printf "database %q is not in global.postgresql.databases: add it there" .database) -}}
{{- end -}}
{{- $where := dict "root" .root "pooled" (and .pooled (has .database (include "common.postgresql.pooled" . | fromYamlArray))) -}}
{{ .scheme | default "postgresql" }}://{{ .database }}@{{ include "common.postgresql.host" $where }}:{{ include "common.postgresql.port" $where }}/{{ .database }}
{{- end -}}

{{/*
Entries of a container's environment: DATABASE_URL, PGPASSWORD, how many seconds libpq waits for a connection: to a
server that has just been replaced, the kernel would go on trying for two minutes; and how it verifies the server.
  (dict "root" $ "database" "mlflow" "pooled" true "verified" true), the last where common.postgresql.tlsEnv is there already
*/}}
{{- define "common.postgresql.env" -}}
- name: DATABASE_URL
  value: {{ include "common.postgresql.url" (dict "root" .root "database" .database "pooled" .pooled) | quote }}
- name: PGCONNECT_TIMEOUT
  value: "10"
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "common.postgresql.secretName" . }}
      key: {{ .database }}-password
{{- if not .verified }}
{{- with include "common.postgresql.tlsEnv" . }}
{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
How libpq, and asyncpg, verify our own PostgreSQL, and its pooler; nothing where it speaks no TLS. Not in the address: asyncpg does not know
libpq's options there.
  (dict "root" $)
*/}}
{{- define "common.postgresql.tlsEnv" -}}
{{- if include "common.tls.speaks" (dict "root" .root "component" "postgresql") -}}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: {{ include "common.tls.ca" . }}
{{- end -}}
{{- end -}}
