{{/*
The NetworkPolicies of components: each lets in and out what common.arrows says of it, the names that it looks up, and
what values add. All else is closed, in both directions.
  (dict "root" $ "components" (list "mlflow" "mlflow-migrate") "as" (dict "model-server-ads" (list "model-server" "opens-redis")))
as: what a component is in common.arrows, the first of them for who comes in, where that is not its own name.
*/}}
{{- define "common.networkPolicies" -}}
{{- $root := .root -}}
{{- $policies := $root.Values.global.networkPolicies -}}
{{- $as := .as | default dict -}}
{{- if $policies.enabled -}}
{{- range $component := .components }}
{{- $names := get $as $component | default (list $component) }}
{{- $out := list (include "common.egressToNames" $root) }}
{{- range $names }}
{{- $out = append $out (include "common.egress" (dict "root" $root "who" .) | trim) }}
{{- end }}
---
{{ include "common.networkPolicy" (dict "root" $root "name" $component) }}
  podSelector:
    matchLabels:
      app.kubernetes.io/instance: {{ $root.Release.Name }}
      app.kubernetes.io/component: {{ $component }}
  policyTypes: [Ingress, Egress]
  {{- $in := include "common.ingress" (dict "root" $root "who" (first $names)) }}
  {{- with index $policies.ingress $component }}
  {{- $in = printf "%s\n%s" $in (toYaml .) }}
  {{- end }}
  {{- with trim $in }}
  ingress:
    {{- . | nindent 4 }}
  {{- end }}
  egress:
    {{- join "\n" (compact $out) | trim | nindent 4 }}
    {{- with index $policies.egress $component }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/*
The NetworkPolicies of pods that are made while the release runs, tasks and commands: each opens what it needs, by its
labels, and nobody has an arrow to them.
*/}}
{{- define "common.networkPoliciesOfNeeds" -}}
{{- if .Values.global.networkPolicies.enabled -}}
{{- range $need := append (include "common.needs" . | fromYamlArray) "kubernetes" }}
{{- $who := printf "opens-%s" $need }}
{{- with include "common.egress" (dict "root" $ "who" $who) | trim }}
---
{{ include "common.networkPolicy" (dict "root" $ "name" $who) }}
  podSelector:
    matchLabels:
      app.kubernetes.io/instance: {{ $.Release.Name }}
      maestro/{{ $who }}: "true"
  policyTypes: [Egress]
  egress:
    {{- . | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* A NetworkPolicy up to its spec. Its name is no label, so it may be longer than those of components. */}}
{{- define "common.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "common.metadata" (dict "root" .root "component" .name "name" (printf "%s-%s-network" .root.Release.Name .name)) | nindent 2 }}
spec:
{{- end -}}

{{/* Who may come in, as entries of `ingress`. */}}
{{- define "common.ingress" -}}
{{- range $port, $from := index (include "common.arrows" . | fromYaml) .who }}
- from:
    {{- include "common.peers" $from | trim | nindent 4 }}
  ports:
    - {{ include "common.policyPort" $port }}
{{- end }}
{{- end -}}

{{/* Where it may go, as entries of `egress`. */}}
{{- define "common.egress" -}}
{{- $outside := include "common.portsOutside" . | fromJson -}}
{{- $root := .root -}}
{{- $who := .who -}}
{{- $leaves := list -}}
{{- range $to, $ports := include "common.arrows" . | fromYaml -}}
{{- range $port, $from := $ports -}}
{{- if has $who $from -}}
{{- if hasKey $outside $to -}}
{{- $leaves = append $leaves $to -}}
{{- else }}
- to:
    {{- include "common.peers" (list $to) | trim | nindent 4 }}
  ports:
    - {{ include "common.policyPort" $port }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $to, $from := include "common.arrowsOutside" . | fromYaml -}}
{{- if and (has $who $from) (hasKey $outside $to) -}}
{{- $leaves = append $leaves $to -}}
{{- end -}}
{{- end -}}
{{- range $to := $leaves }}
- to:
    {{- range get $root.Values.global.networkPolicies.outside (has $to (list "minio" "backups") | ternary "s3" $to) }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports:
    {{- range get $outside $to }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* What every pod may ask for addresses: the cluster's DNS, and its cache on the node where there is one. */}}
{{- define "common.egressToNames" -}}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: kube-system}
    - ipBlock: {cidr: 169.254.20.10/32}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}

{{/* The roles that components have beside their names, as YAML. */}}
{{- define "common.roles" -}}
[model-server, airflow-worker]
{{- end -}}

{{/*
Pods of components, of roles, and of needs, as entries of `from` and `to`. Of any release in the namespace: a chart that is installed
alone talks to those of another release.
*/}}
{{- define "common.peers" -}}
{{- $components := list -}}
{{- range . -}}
{{- if hasPrefix "opens-" . }}
- podSelector:
    matchLabels: {app.kubernetes.io/part-of: maestro, maestro/{{ . }}: "true"}
{{- else -}}
{{- $components = append $components . -}}
{{- end -}}
{{- if has . (include "common.roles" . | fromYamlArray) }}
- podSelector:
    matchLabels: {app.kubernetes.io/part-of: maestro, maestro/role: {{ . }}}
{{- end -}}
{{- end -}}
{{- with $components }}
- podSelector:
    matchLabels: {app.kubernetes.io/part-of: maestro}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: [{{ join ", " . }}]}
{{- end }}
{{- end -}}

{{/* An entry of `ports`, of 9125/UDP. */}}
{{- define "common.policyPort" -}}
{{- $parts := splitList "/" . -}}
{protocol: {{ last $parts }}, port: {{ first $parts }}}
{{- end -}}
