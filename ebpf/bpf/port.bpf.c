// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * On the hidden end of the tunnel interface's veth pair: whatever the host sends into the tunnel goes to the AF_XDP
 * socket of its queue.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} SOCKETS SEC(".maps");

SEC("xdp")
int linegate_port(struct xdp_md *ctx)
{
	return bpf_redirect_map(&SOCKETS, ctx->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
