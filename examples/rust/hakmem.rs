//! hakmem as Rust's global allocator, without a crate:
//!
//!     mod hakmem;
//!     #[global_allocator]
//!     static ALLOCATOR: hakmem::Hakmem = hakmem::Hakmem;
//!
//! and `rustc -L native=/usr/local/lib -l hakmem`. The frees name the size, which the variants that
//! validate check.
use std::alloc::{GlobalAlloc, Layout};
use std::os::raw::{c_int, c_void};

extern "C" {
    fn hak_malloc(size: usize) -> *mut c_void;
    fn hak_calloc(n: usize, size: usize) -> *mut c_void;
    fn hak_realloc(p: *mut c_void, size: usize) -> *mut c_void;
    fn hak_aligned_alloc(alignment: usize, size: usize) -> *mut c_void;
    fn hak_free_sized(p: *mut c_void, size: usize);
    fn hak_free_aligned_sized(p: *mut c_void, alignment: usize, size: usize);
    fn hak_owns(p: *const c_void) -> c_int;
}

/// What every block of hak_malloc is aligned to.
const NATURAL: usize = 16;

pub struct Hakmem;

unsafe impl GlobalAlloc for Hakmem {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= NATURAL {
            hak_malloc(layout.size()) as *mut u8
        } else {
            hak_aligned_alloc(layout.align(), layout.size()) as *mut u8
        }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        if layout.align() <= NATURAL {
            hak_free_sized(p as *mut c_void, layout.size())
        } else {
            hak_free_aligned_sized(p as *mut c_void, layout.align(), layout.size())
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= NATURAL {
            return hak_calloc(1, layout.size()) as *mut u8;
        }
        let p = self.alloc(layout);
        if !p.is_null() {
            p.write_bytes(0, layout.size());
        }
        p
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= NATURAL {
            return hak_realloc(p as *mut c_void, size) as *mut u8;
        }
        let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
        if !new.is_null() {
            p.copy_to_nonoverlapping(new, layout.size().min(size));
            self.dealloc(p, layout);
        }
        new
    }
}

/// Whether an address lies in hakmem's memory.
pub fn owns<T: ?Sized>(p: *const T) -> bool {
    unsafe { hak_owns(p as *const c_void) != 0 }
}
