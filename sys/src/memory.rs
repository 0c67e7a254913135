//! How this process's allocator gives memory back to the system.

/// Allocations of this size and more get pages of their own, which go back to the system when they are freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 1 << 20;

/// What a heap keeps at its end. To take pages back and to get them again costs more than what a list of a large node is
/// made of, which the kubelet asks for every second.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 2 << 20;

/// Heaps that threads share: by default glibc makes eight for each processor, and each keeps what was ever free in it.
/// What is free at the end of any but the first is not given back by malloc_trim(3) either.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 1;

/// Has glibc give back what it does not need (mallopt(3)). Its threshold for allocations with pages of their own rises by
/// itself up to 32 MiB with what is freed, and stays where it is set. Other C libraries keep little anyway.
///
/// To be called before there are threads.
pub fn give_back_early() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, OWN_PAGES),
        (libc::M_TRIM_THRESHOLD, KEPT),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: mallopt takes two numbers, and says in its answer that it does not know an option.
        let _known = unsafe { libc::mallopt(option, value) };
    }
}

/// Gives back every free page, wherever it lies: one small allocation at a heap's end keeps all that is free before it
/// (malloc_trim(3)). Takes the time of a few system calls, or of one for each hole that there is.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and locks each heap while it looks through it.
    let _any = unsafe { libc::malloc_trim(0) };
}
