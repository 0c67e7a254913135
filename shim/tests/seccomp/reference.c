/* What libseccomp makes of a profile: read as text from standard input, its program written to standard output.
 *
 * n NAME                        -> int32 for x86_64, x32, x86, aarch64, arm
 * p DEFAULT OPTIMIZE            begins a profile
 * a TOKEN                       adds an architecture
 * x                             removes the native one
 * r NAME ACTION N (I OP A B)*   adds a rule
 * e                             -> int32 error, uint32 count, instructions of eight bytes
 */
#define _GNU_SOURCE
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void put(const void *data, size_t size) {
    if (fwrite(data, 1, size, stdout) != size) exit(1);
}

int main(void) {
    static const uint32_t archs[] = {
        SCMP_ARCH_X86_64, SCMP_ARCH_X32, SCMP_ARCH_X86, SCMP_ARCH_AARCH64, SCMP_ARCH_ARM,
    };
    scmp_filter_ctx filter = NULL;
    int32_t error = 0;
    char name[64];
    int command;
    while ((command = getchar()) != EOF) {
        if (command == 'n') {
            if (scanf("%63s", name) != 1) return 1;
            for (int i = 0; i < 5; i++) {
                int32_t number = seccomp_syscall_resolve_name_arch(archs[i], name);
                put(&number, 4);
            }
            fflush(stdout);
        } else if (command == 'p') {
            uint32_t action, optimize;
            if (scanf("%u %u", &action, &optimize) != 2) return 1;
            filter = seccomp_init(action);
            if (!filter) return 1;
            error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, optimize);
        } else if (command == 'a') {
            uint32_t token;
            if (scanf("%u", &token) != 1) return 1;
            int result = seccomp_arch_add(filter, token);
            if (result && result != -17 && !error) error = result;
        } else if (command == 'x') {
            int result = seccomp_arch_remove(filter, SCMP_ARCH_NATIVE);
            if (result && !error) error = result;
        } else if (command == 'r') {
            struct scmp_arg_cmp args[6];
            uint32_t action;
            unsigned count;
            if (scanf("%63s %u %u", name, &action, &count) != 3 || count > 6) return 1;
            for (unsigned i = 0; i < count; i++) {
                unsigned argument, op;
                uint64_t a, b;
                if (scanf("%u %u %lu %lu", &argument, &op, &a, &b) != 4) return 1;
                args[i] = (struct scmp_arg_cmp){argument, op, a, b};
            }
            int number = seccomp_syscall_resolve_name(name);
            if (number == __NR_SCMP_ERROR) continue;
            int result = seccomp_rule_add_array(filter, action, number, count, args);
            if (result && !error) error = result;
        } else if (command == 'e') {
            int file = memfd_create("bpf", 0);
            int result = error ? error : seccomp_export_bpf(filter, file);
            if (!error) error = result;
            off_t size = error ? 0 : lseek(file, 0, SEEK_END);
            uint32_t count = size / 8;
            put(&error, 4);
            put(&count, 4);
            lseek(file, 0, SEEK_SET);
            for (uint32_t i = 0; i < count; i++) {
                uint64_t instruction;
                if (read(file, &instruction, 8) != 8) return 1;
                put(&instruction, 8);
            }
            fflush(stdout);
            close(file);
            seccomp_release(filter);
            filter = NULL;
        }
    }
    return 0;
}
