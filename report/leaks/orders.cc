// orders [REQUESTS]: a server in C++ that loses memory, for docs/leaks.md: an order knows its
// customer, and the customer knows his orders, by shared pointers both, so that neither is ever
// freed. Prints how many bytes the orders' notes have.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

static const size_t note_bytes = 500;

struct Order;

struct Customer {
    std::string name;
    std::vector<std::shared_ptr<Order>> orders;
};

struct Order {
    std::shared_ptr<Customer> customer; // a std::weak_ptr would do
    std::string note;
};

static std::shared_ptr<Customer> find_customer(int number)
{
    auto customer = std::make_shared<Customer>();
    customer->name = "customer number " + std::to_string(number);
    return customer;
}

static size_t answer(int number)
{
    auto order = std::make_shared<Order>();
    order->customer = find_customer(number);
    order->note.assign(note_bytes - 1, 'x');
    order->customer->orders.push_back(order);
    return note_bytes;
}

int main(int argc, char **argv)
{
    int requests = argc > 1 ? std::atoi(argv[1]) : 20000;
    size_t bytes = 0;
    for (int i = 0; i < requests; i++) {
        bytes += answer(i);
    }
    std::printf("%zu\n", bytes);
    return 0;
}
