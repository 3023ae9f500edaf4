{{/*
The connections to PostgreSQL that the poolers have at most, while they are rolled: those of each pool, and their own
(images/postgresql/pooler-start).
  (dict "values" .Values), those of this chart
*/}}
{{- define "postgresql.poolerConnections" -}}
{{- $each := add 1 (len .values.pooler.pools) -}}
{{- range .values.pooler.pools -}}
{{- $each = add $each (int .) -}}
{{- end -}}
{{- mul $each (include "common.podsAtMost" (dict "values" .values.pooler)) -}}
{{- end -}}
