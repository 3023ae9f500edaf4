package main

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// The chain that every packet between pods, and from a pod to the node, goes through. It lies in the table mangle, where
// services are resolved already and kube-proxy accepts nothing before it.
const policyChain = "MAESTRO-POLICY"

// Names of what belongs to us: chains of iptables and sets of ipset.
const ownPrefix = "mp-"

// endpoint is a pod with an address.
type endpoint struct {
	namespace, ip string
	labels        labels.Set
	ports         map[string]string // "http/TCP" -> "tcp:8080"
}

// ipSet is the content of a set of ipset: its type, and its members, each with its options.
type ipSet struct {
	kind    string
	members map[string]bool
}

// ruleset is what the kernel has to hold: rules by chain, in order, and the sets that they name.
type ruleset struct {
	chains map[string][]string
	sets   map[string]ipSet
}

// compile turns policies into rules. Pods with the same policies share a chain, so that a pod that comes or goes changes
// members of sets and no rule. A pod that no policy selects is in no set, and all of its packets pass.
func compile(policies []*networking.NetworkPolicy, namespaces map[string]labels.Set, pods []endpoint) (ruleset, error) {
	result := ruleset{chains: map[string][]string{}, sets: map[string]ipSet{}}
	var dispatch []string
	for _, direction := range []networking.PolicyType{networking.PolicyTypeEgress, networking.PolicyTypeIngress} {
		groups := map[string][]*networking.NetworkPolicy{}
		members := map[string][]string{}
		for _, pod := range pods {
			var selecting []*networking.NetworkPolicy
			var names []string
			for _, policy := range policies {
				matches, err := selects(&policy.Spec.PodSelector, pod.labels)
				if err != nil {
					return result, err
				}
				if policy.Namespace == pod.namespace && slices.Contains(policy.Spec.PolicyTypes, direction) && matches {
					selecting = append(selecting, policy)
					names = append(names, policy.Namespace+"/"+policy.Name)
				}
			}
			if len(selecting) > 0 {
				group := strings.Join(names, " ")
				groups[group] = selecting
				members[group] = append(members[group], pod.ip)
			}
		}
		for _, group := range slices.Sorted(maps.Keys(groups)) {
			var rules []string
			for _, policy := range groups[group] {
				more, err := result.allow(policy, direction, namespaces, pods)
				if err != nil {
					return result, err
				}
				rules = append(rules, more...)
			}
			chain := named("chain", string(direction), group)
			result.chains[chain] = append(rules, "-j DROP")
			side := map[networking.PolicyType]string{networking.PolicyTypeEgress: "src", networking.PolicyTypeIngress: "dst"}[direction]
			dispatch = append(dispatch, fmt.Sprintf("-m set --match-set %s %s -j %s",
				result.set("hash:ip", members[group], "isolated", string(direction), group), side, chain))
		}
	}
	result.chains[policyChain] = append([]string{"-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"}, dispatch...)
	return result, nil
}

// allow gives the rules that let through what one policy allows in a direction.
func (r ruleset) allow(policy *networking.NetworkPolicy, direction networking.PolicyType, namespaces map[string]labels.Set, pods []endpoint) ([]string, error) {
	type entry struct {
		peers []networking.NetworkPolicyPeer
		ports []networking.NetworkPolicyPort
	}
	var entries []entry
	side := "dst"
	if direction == networking.PolicyTypeIngress {
		side = "src"
		for _, rule := range policy.Spec.Ingress {
			entries = append(entries, entry{rule.From, rule.Ports})
		}
	} else {
		for _, rule := range policy.Spec.Egress {
			entries = append(entries, entry{rule.To, rule.Ports})
		}
	}
	var rules []string
	for number, entry := range entries {
		key := fmt.Sprintf("%s/%s %s %d", policy.Namespace, policy.Name, direction, number)
		peers, err := r.peers(key, side, policy.Namespace, entry.peers, namespaces, pods)
		if err != nil {
			return nil, err
		}
		for _, peer := range peers {
			for _, port := range r.ports(entry.ports, pods) {
				rules = append(rules, strings.Join(strings.Fields(peer+" "+port+" -j RETURN"), " "))
			}
		}
	}
	return rules, nil
}

// peers gives a match for each kind of peer; one that matches all where none is named.
func (r ruleset) peers(key, side, namespace string, peers []networking.NetworkPolicyPeer, namespaces map[string]labels.Set, pods []endpoint) ([]string, error) {
	if len(peers) == 0 {
		return []string{""}, nil
	}
	var blocks, addresses []string
	for _, peer := range peers {
		if peer.IPBlock != nil {
			blocks = append(blocks, networks(peer.IPBlock.CIDR, "")...)
			for _, except := range peer.IPBlock.Except {
				blocks = append(blocks, networks(except, " nomatch")...)
			}
			continue
		}
		for _, pod := range pods {
			inNamespace, err := selects(peer.NamespaceSelector, namespaces[pod.namespace])
			if err != nil {
				return nil, err
			}
			if peer.NamespaceSelector == nil {
				inNamespace = pod.namespace == namespace
			}
			matches, err := selects(peer.PodSelector, pod.labels)
			if err != nil {
				return nil, err
			}
			if inNamespace && (peer.PodSelector == nil || matches) {
				addresses = append(addresses, pod.ip)
			}
		}
	}
	matches := []string{fmt.Sprintf("-m set --match-set %s %s", r.set("hash:ip", addresses, "peers", key), side)}
	if len(blocks) > 0 {
		matches = append(matches, fmt.Sprintf("-m set --match-set %s %s", r.set("hash:net", blocks, "blocks", key), side))
	}
	return matches, nil
}

// ports gives a match for each port; one that matches all where none is named.
func (r ruleset) ports(ports []networking.NetworkPolicyPort, pods []endpoint) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var matches []string
	for _, port := range ports {
		protocol := v1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		lower := strings.ToLower(string(protocol))
		switch {
		case port.Port == nil:
			matches = append(matches, "-p "+lower)
		case port.Port.StrVal != "":
			name := port.Port.StrVal + "/" + string(protocol)
			var members []string
			for _, pod := range pods {
				if number, found := pod.ports[name]; found {
					members = append(members, pod.ip+","+number)
				}
			}
			matches = append(matches, fmt.Sprintf("-m set --match-set %s dst,dst", r.set("hash:ip,port", members, "port", name)))
		default:
			numbers := fmt.Sprint(port.Port.IntVal)
			if port.EndPort != nil {
				numbers += fmt.Sprintf(":%d", *port.EndPort)
			}
			matches = append(matches, fmt.Sprintf("-p %s -m %s --dport %s", lower, lower, numbers))
		}
	}
	return matches
}

// set records a set, and gives its name, which follows from what it is for.
func (r ruleset) set(kind string, members []string, purpose ...string) string {
	name := named(append(purpose, kind)...)
	content := map[string]bool{}
	for _, member := range members {
		content[member] = true
	}
	r.sets[name] = ipSet{kind, content}
	return name
}

func named(parts ...string) string {
	return fmt.Sprintf("%s%x", ownPrefix, sha256.Sum256([]byte(strings.Join(parts, "\x00"))))[:len(ownPrefix)+16]
}

// networks gives a block as ipset writes it, which knows neither /0 nor /32.
func networks(cidr, option string) []string {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil || !prefix.Addr().Is4() {
		return nil // pods have addresses of version 4 only
	}
	if prefix.Bits() == 0 {
		return []string{"0.0.0.0/1" + option, "128.0.0.0/1" + option}
	}
	return []string{strings.TrimSuffix(prefix.Masked().String(), "/32") + option}
}

func selects(selector *metav1.LabelSelector, set labels.Set) (bool, error) {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && compiled.Matches(set), err
}
