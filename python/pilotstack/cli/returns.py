"""Members of ``data`` in the answer of each command, for the catalogue. Tests compare them with
what commands print. A question mark stands after those that may be missing; what is in brackets are
the members of rows."""

from __future__ import annotations

from typing import Final

_STATUS: Final = "node_id, status"
_NETWORK: Final = "type, network_id?"
_ROLE: Final = "type, network_id, target_node_id, role"
_PEERS: Final = (
    "peers [node_id, endpoint, encrypted, authenticated, relay, path, beacon, rtt_ms, mtu, loss, "
    "path_age, candidates?], total, encrypted"
)
_VISIBLE: Final = "type, node_id, visibility"
_NAME: Final = "type, name, nameserver, address?, network?, port?"
_SENT: Final = "target, port, sent, response"
_TAGS: Final = "type, network_id, target_node_id, tags?, members?, next_offset?"
_MAPPINGS: Final = "mappings [local_ip, pilot_addr], total"

#: By the path of the command. Those without an entry print no envelope; see their help.
RETURNS: Final[dict[str, str]] = {
    "approve": _STATUS,
    "ban": "node_id, banned",
    "bench": "target, sent_bytes, recv_bytes, send_duration_ms, total_duration_ms, send_mbps, "
    "total_mbps, send_bytes_per_second, bytes_per_second, complete",
    "broadcast": "network_id, port, bytes, members",
    "clear-hostname": "type, node_id, hostname",
    "clear-tags": "tags",
    "clear-webhook": "webhook, applied",
    "config": "config_path?, pid_file?, log_file?, and the settings of the file; with --set key, "
    "value",
    "config explain": "program, settings [name, value, origin, source?]",
    "connect": _SENT + "; without --message nothing: it joins stdin and stdout to the stream",
    "connections": "connections [id, state, local_port, remote_addr, remote_port, ...], total",
    "context": "version, commands, global_flags, error_codes, exit_status, environment, "
    "config_file; with COMMAND its entry alone",
    "daemon start": "pid, node_id, address, hostname, socket, log_file, warnings?",
    "daemon status": "running, pid, pid_file, socket, responsive, node_id?, address?, hostname?, "
    "uptime_secs?, peers?, connections?",
    "daemon stop": "pid, forced?",
    "deregister": "type",
    "dgram": "target, port, bytes, confirmed",
    "disconnect": "conn_id",
    "doctor": "findings [severity, code, text, fix], ok",
    "find": "hostname, node_id, address, public",
    "gateway list": _MAPPINGS,
    "gateway map": "local_ip, pilot_addr",
    "gateway start": "pid, subnet, " + _MAPPINGS,
    "gateway stop": "pid",
    "gateway unmap": "unmapped",
    "handshake": _STATUS,
    "health": "status, uptime_seconds, beacon_addr, connections, peers, encrypted_peers, "
    "authenticated_peers, bytes_sent, bytes_recv, relay_peer_count, handshake_pending_count, "
    "accept_queue_drops",
    "inbox": "messages [id, type, from, bytes, received_at, preview or data], total, shown, "
    "remaining?, dir; with --clear cleared",
    "info": "node_id, address, hostname, public_key, uptime_secs, peers, connections, peer_list, "
    "conn_list, dropped, ...",
    "init": "config_path, registry, beacon, hostname, socket",
    "listen": "messages [src_addr, src_port, data, bytes], timeout; without --count a line for "
    "each datagram",
    "lookup": "type, node_id, address, networks?, public?, public_key?, hostname?, tags?, "
    "key_generation?, polo_score?, version?, real_addr?, last_seen_unix?, offline?",
    "member-tags get": _TAGS,
    "member-tags set": _TAGS,
    "migrate": "home, found [what, path, found, becomes, is_problem], problems, copy",
    "name-list": "records [type, name, address, network, port]",
    "name-register": _NAME,
    "name-unregister": "type, name",
    "netcheck": "beacons, findings [name, result, meaning]",
    "network accept": _NETWORK,
    "network create": "type, network_id, name",
    "network delete": _NETWORK,
    "network demote": _ROLE,
    "network invite": _NETWORK,
    "network invites": "type, invites [network_id, inviter_id, timestamp]",
    "network join": "type, network_id, address",
    "network kick": _NETWORK,
    "network leave": _NETWORK,
    "network list": "type, networks [id, name, join_rule, members]",
    "network members": "type, nodes [node_id, address, hostname, role, ...]",
    "network policy": "type, network_id, max_members, allowed_ports, description",
    "network role": "type, network_id, target_node_id, role",
    "network promote": _ROLE,
    "network reject": _NETWORK,
    "network rename": "type, network_id, name",
    "network token": "type, network_id, expires, token",
    "network transfer": _NETWORK,
    "peers": _PEERS,
    "pending": "pending [node_id, public_key, justification, received_at]",
    "ping": "target, to, results [seq, bytes, rtt_ms or error], timeout",
    "policy get": "type, engine, network_id",
    "prefer-direct": "node_id, had_tunnel, pila_pushed, resolve_error, was_relay_active, "
    "was_relay_pinned",
    "publish": "target, topic, bytes, events, confirmed",
    "quickstart": "steps [purpose, command]",
    "received": "files [name, bytes, modified, path], total, shown, remaining?, dir",
    "recovery enroll": "type, node_id, enrolled, recovery_secret?",
    "recovery withdraw": "type, node_id, enrolled",
    "recv": "messages [seq, port, data, bytes or error], timeout",
    "register": "type, node_id, address, hostname, public_key, hostname_error?",
    "reject": _STATUS,
    "resolve": "name?, address?, network?; with --type S records [type, name, address, network, "
    "port]",
    "rotate-key": "type, node_id, address, public_key, identity?",
    "send": _SENT,
    "send-file": "filename, bytes, bytes_sent, bytes_resumed, sha256, transport, verified, ...",
    "send-message": "target, to, type, bytes, message_id, ack, ...; with --wait reply",
    "services": "target, address, version, uptime_secs, services [port, name, state, builtin]",
    "set-hostname": "type, node_id, hostname",
    "set-private": _VISIBLE,
    "set-public": _VISIBLE,
    "set-tags": "node_id, tags",
    "set-webhook": "webhook, applied",
    "sign-request": "type, envelope, signature, address",
    "subscribe": "events [topic, data, bytes], timeout, lost; without --count a line for each "
    "event, with --reconnect and for each gap",
    "top": "node, seconds, totals, peers, streams; without --once a line for each look",
    "traceroute": "target, to, setup_ms, phases [name, ms, detail], rtt_samples [bytes, rtt_ms], "
    "path?",
    "trust": "trusted [node_id, public_key, approved_at, mutual, network], total",
    "unban": "node_id, banned",
    "untrust": "node_id",
    "verify-request": "type, valid, reason?, node_id?, address?, verified_via?, trusted?, "
    "network_member?, last_seen_unix?",
    "version": "version",
    "why": "target, address, code, text, fix, evidence, is_unreachable",
}
