{{/*
Whether there are ValidatingAdmissionPolicies: values want them and the cluster knows them. "yes" or nothing.
  (dict "root" $)
*/}}
{{- define "common.admits" -}}
{{- $known := .root.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
{{- if and .root.Values.global.admissionPolicies.enabled $known -}}yes{{- end -}}
{{- end -}}

{{/*
The name of a policy and of its binding. Both are of the whole cluster: it begins with the namespace.
*/}}
{{- define "common.admissionName" -}}
{{ .root.Release.Namespace }}.{{ include "common.fullname" . }}
{{- end -}}

{{/*
What a service account may ask the Kubernetes API for in the release's namespace, beyond what its Role can say.
  (dict "root" $ "component" "deployer" "rules" (list of resourceRules) "variables" (list) "validations" (list))
*/}}
{{- define "common.admissionPolicy" -}}
{{- if include "common.admits" . -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  {{- include "common.metadata" (dict "root" .root "component" .component "name" (include "common.admissionName" .)) | nindent 2 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      {{- toYaml .rules | nindent 6 }}
  matchConditions:
    - name: who
      expression: request.userInfo.username == {{ printf "system:serviceaccount:%s:%s" .root.Release.Namespace (include "common.fullname" .) | quote }}
  variables:
    {{- toYaml .variables | nindent 4 }}
  validations:
    {{- toYaml .validations | nindent 4 }}
{{- end -}}
{{- end -}}

{{/*
The binding of that policy.
  (dict "root" $ "component" "deployer")
*/}}
{{- define "common.admissionPolicyBinding" -}}
{{- if include "common.admits" . -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "common.metadata" (dict "root" .root "component" .component "name" (include "common.admissionName" .)) | nindent 2 }}
spec:
  policyName: {{ include "common.admissionName" . }}
  validationActions: [Deny]
  matchResources:
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .root.Release.Namespace }}
{{- end -}}
{{- end -}}
