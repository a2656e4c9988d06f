/* A qemu plugin that tells how often each translated block ran so far, and the 32-bit words of its instructions.
 *
 * -plugin blocks.so,out=PREFIX: whenever the program calls getpriority(ASKED, n), which Linux refuses and nothing else
 * does, PREFIX.n is written, with one line per block: where it starts, how often it ran, and its words, in hex. The
 * difference of two such files is what ran between the two calls. Blocks are told apart by where they start and how long
 * they are; counters are one per virtual processor, so that threads need no lock while they run. */
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

typedef struct {
    uint64_t start, length;
} Place;

typedef struct {
    Place place;
    uint32_t *words;
    qemu_plugin_u64 runs;
} Block;

static GHashTable *blocks; /* Place -> Block, which holds it */
static GMutex lock;
static char *prefix;

enum { GETPRIORITY = 141 /* on aarch64 */, ASKED = 0x5AFE };

static guint hash_of(gconstpointer key)
{
    const Place *place = key;
    return g_int64_hash(&place->start) ^ (guint)place->length;
}

static gboolean same_place(gconstpointer one, gconstpointer other)
{
    return memcmp(one, other, sizeof(Place)) == 0;
}

static Block *new_block(struct qemu_plugin_tb *translated, Place place)
{
    Block *block = g_new0(Block, 1);
    block->place = place;
    block->words = g_new0(uint32_t, place.length);
    for (size_t index = 0; index < place.length; index++)
        qemu_plugin_insn_data(qemu_plugin_tb_get_insn(translated, index), &block->words[index], sizeof(uint32_t));
    block->runs = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
    g_hash_table_insert(blocks, &block->place, block);
    return block;
}

static void on_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *translated)
{
    Place place = {qemu_plugin_tb_vaddr(translated), qemu_plugin_tb_n_insns(translated)};
    g_mutex_lock(&lock);
    Block *block = g_hash_table_lookup(blocks, &place);
    if (!block)
        block = new_block(translated, place);
    g_mutex_unlock(&lock);
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(translated, QEMU_PLUGIN_INLINE_ADD_U64, block->runs, 1);
}

static void write_counts(uint64_t number)
{
    char *name = g_strdup_printf("%s.%" PRIu64, prefix, number);
    FILE *file = fopen(name, "w");
    GHashTableIter each;
    gpointer value;
    if (!file) {
        perror(name);
        exit(1);
    }
    g_mutex_lock(&lock);
    g_hash_table_iter_init(&each, blocks);
    while (g_hash_table_iter_next(&each, NULL, &value)) {
        Block *block = value;
        uint64_t runs = qemu_plugin_u64_sum(block->runs);
        if (!runs)
            continue;
        fprintf(file, "%" PRIx64 " %" PRIu64, block->place.start, runs);
        for (size_t index = 0; index < block->place.length; index++)
            fprintf(file, " %08x", block->words[index]);
        fputc('\n', file);
    }
    g_mutex_unlock(&lock);
    fclose(file);
    g_free(name);
}

static void on_syscall(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number == GETPRIORITY && (uint32_t)a1 == ASKED)
        write_counts((uint32_t)a2);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    if (argc != 1 || !g_str_has_prefix(argv[0], "out=")) {
        fprintf(stderr, "expected blocks.so,out=PREFIX\n");
        return -1;
    }
    prefix = g_strdup(argv[0] + strlen("out="));
    blocks = g_hash_table_new(hash_of, same_place);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
