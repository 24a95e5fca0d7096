/* The job interface of Intel's ipsec-mb behind two functions, because its manager is a structure of function pointers that
 * changes from version to version. */
#include <intel-ipsec-mb.h>

struct packet {
    const uint8_t *key;
    uint8_t *text;
    uint64_t bytes;
    uint8_t nonce[12];
    uint8_t tag[16];
};

void *linegate_ipsec_mb_new(void)
{
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager)
        init_mb_mgr_auto(manager, NULL);
    return manager;
}

void linegate_ipsec_mb_run(void *opaque, struct packet *packets, uint64_t count, int seal)
{
    IMB_MGR *manager = opaque;
    for (uint64_t i = 0; i < count; i++) {
        struct packet *packet = &packets[i];
        IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
        job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
        job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
        job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
        job->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
        job->enc_keys = packet->key;
        job->dec_keys = packet->key;
        job->key_len_in_bytes = 32;
        job->u.CHACHA20_POLY1305.aad = NULL;
        job->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
        job->src = packet->text;
        job->dst = packet->text;
        job->iv = packet->nonce;
        job->iv_len_in_bytes = sizeof packet->nonce;
        job->cipher_start_src_offset_in_bytes = 0;
        job->hash_start_src_offset_in_bytes = 0;
        job->msg_len_to_cipher_in_bytes = packet->bytes;
        job->msg_len_to_hash_in_bytes = packet->bytes;
        job->auth_tag_output = packet->tag;
        job->auth_tag_output_len_in_bytes = sizeof packet->tag;
        IMB_SUBMIT_JOB_NOCHECK(manager);
    }
    while (IMB_FLUSH_JOB(manager))
        ;
}
