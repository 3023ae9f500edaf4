{{/*
How many connections a process of Airflow has to its database at most: it keeps five, and makes the others when it needs
them. Stronger than airflow.cfg, which holds for programs that end.
  40
*/}}
{{- define "airflow.poolEnv" -}}
{{- $kept := min 5 (int .) -}}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE
  value: {{ $kept | quote }}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW
  value: {{ sub (int .) $kept | quote }}
{{- end -}}

{{/*
The connections to PostgreSQL that this chart's pods have at most, during an upgrade, as YAML: each component's. The
api-server has a second pool, of asyncpg, with as many connections kept and SQLAlchemy's ten beside them.
  (dict "values" .Values), those of this chart; see maestro.databaseConnections
*/}}
{{- define "airflow.databaseConnections" -}}
{{- $values := .values -}}
{{- $together := $values.scheduler.withApiServer -}}
{{- $of := dict -}}
{{- range $component := list "apiServer" "scheduler" "dagProcessor" "triggerer" -}}
{{- $each := get $values $component -}}
{{- $recreated := and $together (has $component (list "apiServer" "scheduler")) -}}
{{- $_ := set $of $component (mul (include "common.podsAtMost" (dict "values" $each "recreated" $recreated)) $each.databaseConnections) -}}
{{- end -}}
{{- /* The pooler is none for what asyncpg prepares. */}}
{{- $servers := include "common.podsAtMost" (dict "values" $values.apiServer "recreated" $together) -}}
{{- /* Each process of a worker writes what became of its task, and the first one that there are tables for it. */}}
{{- $each := add 2 (dig "celery" "worker_concurrency" 16 $values.config) -}}
{{- range $component, $set := include "airflow.workerSets" . | fromYaml -}}
{{- $_ := set $of ($component | trimPrefix "airflow-") (mul $each (include "common.podsAtMost" (dict "values" $set "surge" "25%"))) -}}
{{- end -}}
{{- $cfg := $values.config.database | default dict -}}
{{- $direct := dict "apiServer.asynchronous" (mul $servers (add (min 5 (int $values.apiServer.databaseConnections)) 10)) -}}
{{- $_ := set $direct "setup" (add (int (dig "sql_alchemy_pool_size" 5 $cfg)) (int (dig "sql_alchemy_max_overflow" 10 $cfg))) -}}
pooled:
{{- range $name, $number := $of }}
  airflow.{{ $name }}: {{ $number }}
{{- end }}
direct:
{{- range $name, $number := $direct }}
  airflow.{{ $name }}: {{ $number }}
{{- end }}
{{- end -}}
