// server [REQUESTS]: the same in C++: sessions that are opened and never closed, in a map that
// only grows. Prints how many bytes the sessions' names and data need.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

class Sessions
{
  public:
    void open(const std::string &user)
    {
        auto session = std::make_unique<Session>();
        session->history.resize(history_bytes);
        bytes_ += sizeof(Session) + history_bytes;
        by_user_[user] = std::move(session);
    }

    void close(const std::string &user)
    {
        by_user_.erase(user);
    }

    size_t bytes() const
    {
        return bytes_;
    }

  private:
    static const size_t history_bytes = 500;
    struct Session {
        std::vector<char> history;
    };
    std::unordered_map<std::string, std::unique_ptr<Session>> by_user_;
    size_t bytes_ = 0;
};

static void answer(Sessions &sessions, int number)
{
    std::string user = "user-" + std::to_string(number);
    std::vector<char> reply(1000);
    sessions.open(user);
    if (reply.size() > 2000) { // never: what should have closed it
        sessions.close(user);
    }
}

int main(int argc, char **argv)
{
    int requests = argc > 1 ? std::atoi(argv[1]) : 20000;
    static Sessions &sessions = *new Sessions; // lives as long as the process
    for (int i = 0; i < requests; i++) {
        answer(sessions, i);
    }
    std::printf("%zu\n", sessions.bytes());
    return 0;
}
