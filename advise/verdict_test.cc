// What the numbers say: intervals, the best contender, the sentences.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>

extern "C" {
#include "advise/advise.h"
}

namespace
{

struct Plan {
    std::unique_ptr<advise_plan> plan = std::make_unique<advise_plan>();

    explicit Plan(size_t rounds)
    {
        plan->n_rounds = rounds;
    }

    // A contender that needs so much, times 1 + noise * a normal number, in each round.
    void add(const char *name, const char *setting, double time, double peak, double noise = 0)
    {
        advise_contender &made = plan->contenders[plan->n_contenders++];
        made.name = name;
        made.setting = setting;
        for (size_t i = 0; i < plan->n_rounds; i++) {
            made.value[ADVISE_TIME][i] = time * (1 + noise * normal(random));
            made.value[ADVISE_PEAK][i] = peak;
            made.value[ADVISE_RESIDENT][i] = peak / 2;
        }
    }

    std::string sentence(advise_kind kind) const
    {
        char *text = nullptr;
        size_t n;
        FILE *out = open_memstream(&text, &n);
        advise_write_sentence(plan.get(), kind, out);
        std::fclose(out);
        std::string made(text, n);
        std::free(text);
        return made;
    }

    std::mt19937 random{7};
    std::normal_distribution<double> normal;
};

TEST(Interval, OrderStatistics)
{
    // Of 11 values and one contender: the second from below and above (2 * 12 / 2048 <= 5 %).
    double values[] = {11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1};
    advise_interval made = advise_interval_of(values, 11, 1);
    EXPECT_EQ(made.median, 6);
    EXPECT_EQ(made.low, 2);
    EXPECT_EQ(made.high, 10);
    EXPECT_TRUE(made.is_told_apart);
    // Of ten contenders at once: the outermost.
    made = advise_interval_of(values, 11, 10);
    EXPECT_EQ(made.low, 1);
    EXPECT_EQ(made.high, 11);
    EXPECT_FALSE(made.is_told_apart) << "1 is in it";
}

TEST(Interval, TooFewValuesSayNothing)
{
    double values[] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    EXPECT_TRUE(advise_interval_of(values, 6, 1).is_told_apart);
    EXPECT_FALSE(advise_interval_of(values, 5, 1).is_told_apart);
    EXPECT_FALSE(advise_interval_of(values, 6, 10).is_told_apart);
    EXPECT_FALSE(advise_interval_of(values, 0, 1).is_told_apart);
    EXPECT_TRUE(std::isinf(advise_interval_of(values, 5, 1).high));
}

TEST(Interval, HoldsTheMedianAsOftenAsItSays)
{
    std::mt19937 random(11);
    std::lognormal_distribution<double> skewed(0, 0.2);
    int misses = 0;
    for (int i = 0; i < 2000; i++) {
        double values[15];
        for (double &value : values) {
            value = skewed(random);
        }
        misses += advise_interval_of(values, 15, 1).is_told_apart;
    }
    EXPECT_LT(misses, 2000 * 5 / 100) << "the true median is 1";
    EXPECT_GT(misses, 0);
}

TEST(Interval, OfEqualsNoneIsNamed)
{
    int named = 0;
    for (int i = 0; i < 300; i++) {
        Plan plan(11);
        plan.random.seed(static_cast<unsigned>(i));
        for (int c = 0; c < 10; c++) {
            plan.add("same", "X=1", 1, 100, 0.05);
        }
        named += advise_best(plan.plan.get(), ADVISE_TIME, 0) != 0;
    }
    EXPECT_LE(named, 300 * 5 / 100);
}

TEST(Sentence, Gains)
{
    Plan plan(9);
    plan.add("hakmem", nullptr, 1, 1000);
    plan.add("HAKMEM_A=0", "HAKMEM_A=0", 1.03, 900);
    plan.add("HAKMEM_B=0", "HAKMEM_B=0", 1, 1000);
    plan.add("other", nullptr, 2, 800);
    EXPECT_EQ(advise_best(plan.plan.get(), ADVISE_PEAK, 0), 3u);
    EXPECT_EQ(advise_best(plan.plan.get(), ADVISE_PEAK, 1), 1u);
    EXPECT_EQ(plan.sentence(ADVISE_TIME),
              "Time: nothing needs less than hakmem with its defaults.");
    EXPECT_EQ(plan.sentence(ADVISE_PEAK),
              "Peak memory: other would need 20.0 % less peak memory (20.0 to 20.0), and 100.0 % "
              "more time (100.0 to 100.0), and 20.0 % less resident memory (20.0 to 20.0); of "
              "hakmem's settings, HAKMEM_A=0 would need 10.0 % less peak memory (10.0 to 10.0), "
              "and 3.0 % more time (3.0 to 3.0), and 10.0 % less resident memory (10.0 to 10.0).");
}

TEST(Sentence, TooFewRounds)
{
    Plan plan(4);
    plan.add("hakmem", nullptr, 1, 1000);
    plan.add("other", nullptr, 0.5, 500);
    EXPECT_EQ(plan.sentence(ADVISE_TIME), "Time: too few rounds to say.");
}

TEST(Outputs, NamesCannotLeaveThePage)
{
    Plan plan(9);
    plan.add("hakmem", nullptr, 1, 1000);
    plan.add("other", nullptr, 0.5, 500);
    advise_trace trace = {"<script>&", 10, 1, 1000};
    char *text = nullptr;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    advise_write_page(plan.plan.get(), &trace, out);
    std::fclose(out);
    std::string page(text, n);
    std::free(text);
    EXPECT_NE(page.find("&lt;script>&amp;"), std::string::npos);
    EXPECT_EQ(page.find("<script"), std::string::npos);
    EXPECT_EQ(page.find("src="), std::string::npos);
}

TEST(Contenders, HakmemIsTheFirst)
{
    auto plan = std::make_unique<advise_plan>();
    advise_find_contenders(plan.get(), "/some/libhakmem.so");
    ASSERT_GT(plan->n_contenders, 2u);
    EXPECT_STREQ(plan->contenders[0].name, "hakmem");
    EXPECT_EQ(plan->contenders[0].setting, nullptr);
    size_t n_settings = 0, n_others = 0;
    for (size_t c = 0; c < plan->n_contenders; c++) {
        const advise_contender &one = plan->contenders[c];
        bool is_ours = std::string(one.library) == "/some/libhakmem.so";
        n_settings += one.setting != nullptr;
        n_others += !is_ours;
        EXPECT_TRUE(!one.setting || is_ours) << one.name;
    }
    EXPECT_GT(n_settings, 3u);
    EXPECT_EQ(n_others + plan->n_missing, 5u);
}

} // namespace
