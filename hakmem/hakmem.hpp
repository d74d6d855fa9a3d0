/* For C++17, in this header alone: a standard allocator and std::pmr memory resources over hak_*,
   beside any malloc. Where hakmem is the process's malloc, operator new is served by it already,
   and only the resource that has a first-class heap adds something. */
#ifndef HAKMEM_HAKMEM_HAKMEM_HPP
#define HAKMEM_HAKMEM_HAKMEM_HPP

#include <cstddef>
#include <limits>
#include <memory_resource>
#include <new>
#include <type_traits>
#include <utility>

#include "hakmem/hakmem.h"

namespace hakmem
{

namespace detail
{

// What every block of hak_malloc is aligned to.
inline constexpr std::size_t natural_alignment = 16;

inline void *checked(void *block)
{
    if (block == nullptr) {
        throw std::bad_alloc();
    }
    return block;
}

inline void *allocate(std::size_t bytes, std::size_t alignment)
{
    return checked(alignment <= natural_alignment ? hak_malloc(bytes)
                                                  : hak_aligned_alloc(alignment, bytes));
}

inline void deallocate(void *block, std::size_t bytes, std::size_t alignment) noexcept
{
    if (alignment <= natural_alignment) {
        hak_free_sized(block, bytes);
    } else {
        hak_free_aligned_sized(block, alignment, bytes);
    }
}

} // namespace detail

// A standard allocator over hak_malloc: std::vector<int, hakmem::allocator<int>>. It has no state,
// and all of its kind are equal. Throws std::bad_alloc without calling the new handler.
template <class T> class allocator
{
  public:
    using value_type = T;
    using is_always_equal = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;

    allocator() noexcept = default;
    template <class U> allocator(const allocator<U> &) noexcept
    {
    }

    [[nodiscard]] T *allocate(std::size_t n)
    {
        if (n > std::numeric_limits<std::size_t>::max() / sizeof(T)) {
            throw std::bad_array_new_length();
        }
        return static_cast<T *>(detail::allocate(n * sizeof(T), alignof(T)));
    }
    void deallocate(T *p, std::size_t n) noexcept
    {
        detail::deallocate(p, n * sizeof(T), alignof(T));
    }
};

template <class T, class U> bool operator==(const allocator<T> &, const allocator<U> &) noexcept
{
    return true;
}
template <class T, class U> bool operator!=(const allocator<T> &, const allocator<U> &) noexcept
{
    return false;
}

// A memory resource over hak_malloc. All of its kind are equal: what one allocated, another frees.
class memory_resource final : public std::pmr::memory_resource
{
    void *do_allocate(std::size_t bytes, std::size_t alignment) override
    {
        return detail::allocate(bytes, alignment);
    }
    void do_deallocate(void *p, std::size_t bytes, std::size_t alignment) override
    {
        detail::deallocate(p, bytes, alignment);
    }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
        return dynamic_cast<const memory_resource *>(&other) != nullptr;
    }
};

// A memory resource with a first-class heap, which it owns: release(), or its end, frees every
// block at once, whether the containers have freed theirs or not. Any threads may use it at a time;
// none during release() or later with what was allocated before. Equal to itself alone.
class heap_resource final : public std::pmr::memory_resource
{
  public:
    // Throws std::bad_alloc if there cannot be one more heap.
    heap_resource() : heap_(create())
    {
    }
    ~heap_resource() override
    {
        hak_heap_destroy(heap_);
    }
    heap_resource(const heap_resource &) = delete;
    heap_resource &operator=(const heap_resource &) = delete;

    // Frees every block. If there can be no new heap it throws, and nothing was freed.
    void release()
    {
        hak_heap_destroy(std::exchange(heap_, create()));
    }
    // For hak_heap_walk and the like; it stays this resource's.
    hak_heap *heap() const noexcept
    {
        return heap_;
    }

  private:
    static hak_heap *create()
    {
        hak_heap *heap = hak_heap_create();
        if (heap == nullptr) {
            throw std::bad_alloc();
        }
        return heap;
    }
    void *do_allocate(std::size_t bytes, std::size_t alignment) override
    {
        return detail::checked(alignment <= detail::natural_alignment
                                   ? hak_heap_malloc(heap_, bytes)
                                   : hak_heap_aligned_alloc(heap_, alignment, bytes));
    }
    void do_deallocate(void *p, std::size_t bytes, std::size_t alignment) override
    {
        detail::deallocate(p, bytes, alignment);
    }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
        return this == &other;
    }

    hak_heap *heap_;
};

} // namespace hakmem

#endif
