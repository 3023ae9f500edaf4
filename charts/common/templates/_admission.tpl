{{/*
What a service account may ask the Kubernetes API for in the release's namespace beyond what its Role can say: a
ValidatingAdmissionPolicy and its binding, where values want them and the cluster knows them. Both are of the whole
cluster, so their names begin with the namespace.
  (dict "root" $ "component" "deployer" "rules" (list of resourceRules) "variables" (list) "validations" (list))
*/}}
{{- define "common.admissionPolicy" -}}
{{- $known := .root.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
{{- if and .root.Values.global.admissionPolicies.enabled $known -}}
{{- $account := include "common.fullname" . -}}
{{- $metadata := merge (dict "name" (printf "%s-%s" .root.Release.Namespace $account)) . -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  {{- include "common.metadata" $metadata | nindent 2 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      {{- toYaml .rules | nindent 6 }}
  matchConditions:
    - name: who
      expression: request.userInfo.username == {{ printf "system:serviceaccount:%s:%s" .root.Release.Namespace $account | quote }}
  {{- with .variables }}
  variables:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  validations:
    {{- toYaml .validations | nindent 4 }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "common.metadata" $metadata | nindent 2 }}
spec:
  policyName: {{ $metadata.name }}
  validationActions: [Deny]
  matchResources:
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .root.Release.Namespace }}
{{- end -}}
{{- end -}}
