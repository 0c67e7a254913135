/* The image nonewprivs: installed setuid root, says as whom it runs. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %u\n", geteuid());
    return 0;
}
