/* Counts the instructions that QEMU's user emulator executes, and tells the count at an agreed system call, which has the
 * number NUMBER and one argument: an open file to write 8 bytes to. Of version 1 of QEMU's plugin interface only what is used
 * is declared here, by hand; nothing of QEMU is part of this package. Built by `mnasnet bench emulator`. */
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb; /* a block of instructions that run one after the other */

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int operation, void *value, uint64_t amount);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, void (*called)(plugin_id, unsigned int, int64_t, uint64_t, uint64_t,
                                                                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                                       uint64_t));

enum { ADD = 0 };
int qemu_plugin_version = 1;
static uint64_t count;

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &count, qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned int cpu, int64_t number, uint64_t file, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    uint64_t now = count;
    if (number == NUMBER && write((int)file, &now, sizeof now) != sizeof now)
        _exit(1);
}

int qemu_plugin_install(plugin_id id, const void *system, int count_of_options, char **options)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
