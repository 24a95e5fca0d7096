// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steers WireGuard: transport data for a live session goes to the AF_XDP socket of its queue; handshakes go up to the
 * UDP socket if their mac1 fits, and while we are under load, if they bring a cookie and their source has not brought
 * too many, or else at a small rate that is answered by cookies; what cannot be WireGuard, or names no session, is
 * dropped. A flood of handshakes thus ends here, before any copy, and hashing it takes a bounded part of the CPU.
 * Everything this program does not fully understand passes to the kernel, whose UDP socket serves it too.
 *
 * The UDP checksum is never looked at: the AEAD says more, and a virtual link may not have filled it in.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "blake2s.h"

#define SLOTS (1 << 20)
#define LIVE (1ULL << 32) /* beside the index, so that index 0 can be told from none */
#define SOURCES (1 << 17)
#define TOKEN_NS (1000000000ULL / 20) /* 20 handshakes a second */
#define BURST 5
#define STRANGER_NS (1000000000ULL / 10000) /* 10,000 messages a second and CPU that prove nothing */
#define WRONG_NS (1000000000ULL / 200000) /* 200,000 a second and CPU whose macs turn out wrong */
#define CPU_BURST 1000
#define MACS 32 /* bytes of both macs at the end of types 1 and 2 */
#define IP_FRAGMENT 0x3fff /* more fragments, or an offset */

/* Mirrored in src/verdict.rs, in this order. */
enum verdict {
	V_REDIRECTED,
	V_NO_SOCKET,
	V_HANDSHAKE_PASSED,
	V_HANDSHAKE_LIMITED,
	V_HANDSHAKE_NO_COOKIE,
	V_INVALID_MAC1,
	V_HANDSHAKE_UNREAD,
	V_UNKNOWN_RECEIVER,
	V_MALFORMED,
	V_OTHER_ADDRESS,
	V_OTHER_PORT,
	V_VLAN,
	V_IP_OPTIONS,
	V_FRAGMENT,
	V_IPV6_EXTENSION,
	V_TRUNCATED,
	V_NOT_IP,
	V_NOT_UDP,
	V_MULTI_BUFFER,
	V_COUNT,
};

/* Mirrored in src/steering.rs. */
struct config {
	__u32 port; /* host order */
	__u32 any_address;
	__u32 under_load;
};

struct address {
	__u8 bytes[16]; /* IPv4 as ::ffff:a.b.c.d */
};

/* Mirrored in src/steering.rs. */
struct guard {
	__u8 mac1_key[32];
	__u8 cookie_secret[32];
	__u32 has_secret;
	/* The program's own: both keys, hashed. */
	__u32 hashed;
	__u32 mac1_state[8];
	__u32 cookie_state[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} CONFIG SEC(".maps");

/* Not an array: a new entry takes the place of the old as a whole. Empty while we have no key. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct guard);
} GUARD SEC(".maps");

/* Where this CPU hashes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct blake2s);
} HASH SEC(".maps");

/* What this CPU still takes of the messages that prove nothing, each as the moment at which it is full. */
enum bucket {
	B_NO_COOKIE,
	B_COOKIE_REPLY,
	B_WRONG_MAC,
	B_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, B_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} BUCKETS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u8);
} ADDRESSES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} RECEIVERS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} SOCKETS SEC(".maps");

/* Of whom we know that they receive at their address: who brought a cookie, and the peers' endpoints. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SOURCES);
	__type(key, struct address);
	__type(value, __u64); /* the moment at which the bucket is full again */
} SOURCES_MAP SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, V_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} COUNTERS SEC(".maps");

static __always_inline int count(__u32 verdict, int action)
{
	__u64 *counter = bpf_map_lookup_elem(&COUNTERS, &verdict);

	if (counter)
		*counter += 1;
	return action;
}

static __always_inline void map_v4(struct address *to, __be32 from)
{
	__builtin_memset(to, 0, sizeof(*to));
	to->bytes[10] = 0xff;
	to->bytes[11] = 0xff;
	__builtin_memcpy(&to->bytes[12], &from, 4);
}

static __always_inline int is_mapped(struct address *address)
{
	__u32 words[3];

	__builtin_memcpy(words, address, sizeof(words));
	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

/* Takes a token of this source; the bucket is kept as the moment at which it is full. */
static __always_inline int allowed(struct address *source)
{
	__u64 now = bpf_ktime_get_ns(), full = now, *known;

	known = bpf_map_lookup_elem(&SOURCES_MAP, source);
	if (known && *known > now)
		full = *known;
	if (full - now > TOKEN_NS * (BURST - 1))
		return 0;
	full += TOKEN_NS;
	bpf_map_update_elem(&SOURCES_MAP, source, &full, BPF_ANY);
	return 1;
}

/* Whether this CPU's bucket has a token, and takes it if `take`. */
static __always_inline int has_token(__u32 bucket, __u64 token_ns, int take)
{
	__u64 now = bpf_ktime_get_ns(), full = now, *known;

	known = bpf_map_lookup_elem(&BUCKETS, &bucket);
	if (!known)
		return 0;
	if (*known > now)
		full = *known;
	if (full - now > token_ns * (CPU_BURST - 1))
		return 0;
	if (take)
		*known = full + token_ns;
	return 1;
}

/* Hashes `len` bytes of the frame from `at`, and compares with the mac behind them. */
static __always_inline int mac_fits(struct xdp_md *ctx, __u32 at, __u32 len, struct blake2s *hash)
{
	__u32 done = 0, wrong, mac[4];

#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u32 part = len - done < BLAKE2S_BLOCK ? len - done : BLAKE2S_BLOCK;

		if (!part)
			break;
		if (part < BLAKE2S_BLOCK)
			__builtin_memset(hash->block, 0, BLAKE2S_BLOCK);
		if (bpf_xdp_load_bytes(ctx, at + done, hash->block, part))
			return 0;
		done += part;
		blake2s_compress(hash, BLAKE2S_BLOCK + done, done == len);
	}
	if (bpf_xdp_load_bytes(ctx, at + len, mac, sizeof(mac)))
		return 0;
	wrong = (mac[0] ^ hash->h[0]) | (mac[1] ^ hash->h[1]) | (mac[2] ^ hash->h[2]) | (mac[3] ^ hash->h[3]);
	return !wrong;
}

struct sender {
	struct address address;
	__be16 port;
};

/*
 * Hashes the keys, once an entry. CPUs that meet here write the same; one that sees the mark before the states, which
 * only a weakly ordered one can, drops a message that is sent again.
 */
static __always_inline void hash_keys(struct guard *guard, struct blake2s *hash)
{
	blake2s_keyed(hash, guard->mac1_key, sizeof(guard->mac1_key));
	__builtin_memcpy(guard->mac1_state, hash->h, sizeof(guard->mac1_state));
	blake2s_keyed(hash, guard->cookie_secret, sizeof(guard->cookie_secret));
	__builtin_memcpy(guard->cookie_state, hash->h, sizeof(guard->cookie_state));
	__sync_fetch_and_add(&guard->hashed, 1);
}

/* Whether mac2 was made with the cookie of the message's sender. */
static __always_inline int has_cookie(struct xdp_md *ctx, struct guard *guard, struct sender *sender, __u32 at, __u32 len,
				      struct blake2s *hash)
{
	__u32 cookie[4];

	if (!guard->has_secret || bpf_xdp_load_bytes(ctx, at + len - sizeof(cookie), cookie, sizeof(cookie)))
		return 0;
	/* Whoever has none writes zeros. */
	if (!(cookie[0] | cookie[1] | cookie[2] | cookie[3]))
		return 0;
	blake2s_resume(hash, guard->cookie_state);
	__builtin_memset(hash->block, 0, BLAKE2S_BLOCK);
	__builtin_memcpy(hash->block, &sender->address, sizeof(sender->address));
	__builtin_memcpy(&hash->block[4], &sender->port, sizeof(sender->port));
	blake2s_compress(hash, BLAKE2S_BLOCK + sizeof(sender->address) + sizeof(sender->port), 1);
	__builtin_memcpy(cookie, hash->h, sizeof(cookie));
	blake2s_keyed(hash, cookie, sizeof(cookie));
	if (mac_fits(ctx, at, len - MACS / 2, hash))
		return 1;
	has_token(B_WRONG_MAC, WRONG_NS, 1);
	return 0;
}

/* A /64 is one source. */
static __always_inline void mask(struct address *source)
{
	if (!is_mapped(source))
		__builtin_memset(&source->bytes[8], 0, 8);
}

/* A message of type 1 or 2 and of `len` bytes, which is a constant, at `at`. */
static __always_inline int handshake(struct xdp_md *ctx, struct config *config, struct sender *sender, __u32 at,
				     __u32 len)
{
	struct blake2s *hash;
	struct guard *guard;
	__u32 zero = 0;
	int proved = 0, counted = 0;

	guard = bpf_map_lookup_elem(&GUARD, &zero);
	if (!guard) /* we have no key, and refuse it in our own words */
		return count(V_HANDSHAKE_PASSED, XDP_PASS);
	hash = bpf_map_lookup_elem(&HASH, &zero);
	if (!hash)
		return count(V_HANDSHAKE_PASSED, XDP_PASS);
	if (!guard->hashed)
		hash_keys(guard, hash);
	/* In a flood of noise those whom we know are looked at all the same, at the rate of each. */
	if (!has_token(B_WRONG_MAC, WRONG_NS, 0)) {
		struct address source = sender->address;

		mask(&source);
		if (!bpf_map_lookup_elem(&SOURCES_MAP, &source))
			return count(V_HANDSHAKE_UNREAD, XDP_DROP);
		if (!allowed(&source))
			return count(V_HANDSHAKE_LIMITED, XDP_DROP);
		counted = 1;
	}
	if (config->under_load) {
		proved = has_cookie(ctx, guard, sender, at, len, hash);
		/* Before another hash: in a flood there is none. It is taken behind it: who does not know our key uses up nothing. */
		if (!proved && !has_token(B_NO_COOKIE, STRANGER_NS, 0))
			return count(V_HANDSHAKE_NO_COOKIE, XDP_DROP);
	}
	blake2s_resume(hash, guard->mac1_state);
	if (!mac_fits(ctx, at, len - MACS, hash)) {
		has_token(B_WRONG_MAC, WRONG_NS, 1);
		return count(V_INVALID_MAC1, XDP_DROP);
	}
	if (config->under_load && proved && !counted) {
		struct address source = sender->address;

		mask(&source);
		if (!allowed(&source))
			return count(V_HANDSHAKE_LIMITED, XDP_DROP);
	} else if (config->under_load && !proved) {
		has_token(B_NO_COOKIE, STRANGER_NS, 1);
	}
	return count(V_HANDSHAKE_PASSED, XDP_PASS);
}

/* It answers us if at all, and costs one decryption at most. */
static __always_inline int cookie_reply(void)
{
	if (!has_token(B_COOKIE_REPLY, STRANGER_NS, 1))
		return count(V_HANDSHAKE_LIMITED, XDP_DROP);
	return count(V_HANDSHAKE_PASSED, XDP_PASS);
}

static __always_inline int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct sender sender = {};
	struct address destination;
	struct config *config;
	struct udphdr *udp;
	__u32 zero = 0, type, at, queue = ctx->rx_queue_index;
	__u64 offset;
	__u16 len, room; /* what the IP header leaves for UDP */
	__u8 *message;

	if ((void *)(eth + 1) > end)
		return count(V_TRUNCATED, XDP_PASS);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return count(V_TRUNCATED, XDP_PASS);
		if (ip->version != 4)
			return count(V_NOT_IP, XDP_PASS);
		if (ip->protocol != IPPROTO_UDP)
			return count(V_NOT_UDP, XDP_PASS);
		if (ip->ihl != 5)
			return count(V_IP_OPTIONS, XDP_PASS);
		if (ip->frag_off & bpf_htons(IP_FRAGMENT))
			return count(V_FRAGMENT, XDP_PASS);
		map_v4(&sender.address, ip->saddr);
		map_v4(&destination, ip->daddr);
		room = bpf_ntohs(ip->tot_len);
		room = room > sizeof(*ip) ? room - sizeof(*ip) : 0;
		udp = (void *)(ip + 1);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return count(V_TRUNCATED, XDP_PASS);
		if (ip->version != 6)
			return count(V_NOT_IP, XDP_PASS);
		switch (ip->nexthdr) {
		case IPPROTO_UDP:
			break;
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_FRAGMENT:
		case IPPROTO_AH:
		case IPPROTO_DSTOPTS:
		case IPPROTO_MH:
			return count(V_IPV6_EXTENSION, XDP_PASS);
		default:
			return count(V_NOT_UDP, XDP_PASS);
		}
		__builtin_memcpy(&sender.address, &ip->saddr, sizeof(sender.address));
		__builtin_memcpy(&destination, &ip->daddr, sizeof(destination));
		room = bpf_ntohs(ip->payload_len);
		udp = (void *)(ip + 1);
	} else if (eth->h_proto == bpf_htons(ETH_P_8021Q) || eth->h_proto == bpf_htons(ETH_P_8021AD)) {
		return count(V_VLAN, XDP_PASS);
	} else {
		return count(V_NOT_IP, XDP_PASS);
	}

	if ((void *)(udp + 1) > end)
		return count(V_TRUNCATED, XDP_PASS);
	config = bpf_map_lookup_elem(&CONFIG, &zero);
	if (!config || udp->dest != bpf_htons((__u16)config->port))
		return count(V_OTHER_PORT, XDP_PASS);
	if (!config->any_address && !bpf_map_lookup_elem(&ADDRESSES, &destination))
		return count(V_OTHER_ADDRESS, XDP_PASS);
	len = bpf_ntohs(udp->len);
	offset = len;
	/* The verifier of Linux 6.1 knows no bounds of a value whose bytes were swapped; the compiler knows them too well. */
	asm volatile("%0 &= 0xffff" : "+r"(offset));
	if (len < sizeof(*udp) || len > room || (void *)udp + offset > end)
		return count(V_TRUNCATED, XDP_PASS);
	len -= sizeof(*udp);

	sender.port = udp->source;
	message = (__u8 *)(udp + 1);
	at = (void *)message - data;
	if (len < 8 || (void *)(message + 8) > end)
		return count(V_MALFORMED, XDP_DROP);
	__builtin_memcpy(&type, message, 4);
	switch (type) {
	case 4: {
		__u32 index, slot;
		__u64 *live;

		if (len < 32)
			return count(V_MALFORMED, XDP_DROP);
		__builtin_memcpy(&index, message + 4, 4);
		slot = index & (SLOTS - 1);
		live = bpf_map_lookup_elem(&RECEIVERS, &slot);
		if (!live || *live != (LIVE | index))
			return count(V_UNKNOWN_RECEIVER, XDP_DROP);
		if (!bpf_map_lookup_elem(&SOCKETS, &queue))
			return count(V_NO_SOCKET, XDP_PASS);
		count(V_REDIRECTED, 0);
		return bpf_redirect_map(&SOCKETS, queue, XDP_PASS);
	}
	case 1:
		return len == 148 ? handshake(ctx, config, &sender, at, 148) : count(V_MALFORMED, XDP_DROP);
	case 2:
		return len == 92 ? handshake(ctx, config, &sender, at, 92) : count(V_MALFORMED, XDP_DROP);
	case 3:
		return len == 64 ? cookie_reply() : count(V_MALFORMED, XDP_DROP);
	default:
		return count(V_MALFORMED, XDP_DROP);
	}
}

SEC("xdp")
int linegate_steer(struct xdp_md *ctx)
{
	return steer(ctx);
}

/*
 * For interfaces whose MTU exceeds what one buffer holds: the driver asks for a program that knows of further buffers.
 * A frame in several of them does not fit a frame of ours either: the kernel serves it.
 */
SEC("xdp.frags")
int linegate_steer_frags(struct xdp_md *ctx)
{
	if (bpf_xdp_get_buff_len(ctx) > (__u64)(ctx->data_end - ctx->data))
		return count(V_MULTI_BUFFER, XDP_PASS);
	return steer(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
