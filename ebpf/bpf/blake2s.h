/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Keyed BLAKE2s with 16 bytes of output (RFC 7693), for the macs of handshake messages. */
#ifndef LINEGATE_BLAKE2S_H
#define LINEGATE_BLAKE2S_H

#define BLAKE2S_BLOCK 64
#define BLAKE2S_MAC 16

/* Not an array: its bytes would stand in a section of their own, which loaders do not know. */
enum {
	IV0 = 0x6a09e667,
	IV1 = 0xbb67ae85,
	IV2 = 0x3c6ef372,
	IV3 = 0xa54ff53a,
	IV4 = 0x510e527f,
	IV5 = 0x9b05688c,
	IV6 = 0x1f83d9ab,
	IV7 = 0x5be0cd19,
};

#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define G(a, b, c, d, x, y)          \
	do {                         \
		a += b + (x);        \
		d = ROTR(d ^ a, 16); \
		c += d;              \
		b = ROTR(b ^ c, 12); \
		a += b + (y);        \
		d = ROTR(d ^ a, 8);  \
		c += d;              \
		b = ROTR(b ^ c, 7);  \
	} while (0)
#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
	do {                                                                        \
		G(v0, v4, v8, v12, m[s0], m[s1]);                                   \
		G(v1, v5, v9, v13, m[s2], m[s3]);                                   \
		G(v2, v6, v10, v14, m[s4], m[s5]);                                  \
		G(v3, v7, v11, v15, m[s6], m[s7]);                                  \
		G(v0, v5, v10, v15, m[s8], m[s9]);                                  \
		G(v1, v6, v11, v12, m[s10], m[s11]);                                \
		G(v2, v7, v8, v13, m[s12], m[s13]);                                 \
		G(v3, v4, v9, v14, m[s14], m[s15]);                                 \
	} while (0)

struct blake2s {
	__u32 h[8];
	__u32 block[16];
};

/*
 * Compresses the block; `bytes` is how many are hashed with it. A global function, so that the verifier walks through it
 * once and not at each call.
 */
__noinline int blake2s_compress(struct blake2s *state, __u32 bytes, __u32 last)
{
	__u32 *h, *m;

	if (!state)
		return -1;
	h = state->h;
	m = state->block;

	__u32 v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
	__u32 v8 = IV0, v9 = IV1, v10 = IV2, v11 = IV3;
	__u32 v12 = IV4 ^ bytes, v13 = IV5, v14 = IV6, v15 = IV7;

	if (last)
		v14 = ~v14;
	ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
	ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
	ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
	ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
	ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
	ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
	ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
	ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
	ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
	h[0] ^= v0 ^ v8;
	h[1] ^= v1 ^ v9;
	h[2] ^= v2 ^ v10;
	h[3] ^= v3 ^ v11;
	h[4] ^= v4 ^ v12;
	h[5] ^= v5 ^ v13;
	h[6] ^= v6 ^ v14;
	h[7] ^= v7 ^ v15;
	return 0;
}

#undef ROTR
#undef G
#undef ROUND

/* Goes on from where a key was hashed. */
static __always_inline void blake2s_resume(struct blake2s *state, const __u32 *h)
{
	__builtin_memcpy(state->h, h, sizeof(state->h));
}

/* Begins a mac with a key of `len` bytes, 16 or 32. */
static __always_inline void blake2s_keyed(struct blake2s *state, const void *key, __u32 len)
{
	__u32 *h = state->h;

	h[0] = IV0 ^ 0x01010000 ^ len << 8 ^ BLAKE2S_MAC;
	h[1] = IV1;
	h[2] = IV2;
	h[3] = IV3;
	h[4] = IV4;
	h[5] = IV5;
	h[6] = IV6;
	h[7] = IV7;
	__builtin_memset(state->block, 0, BLAKE2S_BLOCK);
	__builtin_memcpy(state->block, key, len);
	blake2s_compress(state, BLAKE2S_BLOCK, 0);
}

#endif
