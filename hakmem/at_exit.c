/* What is looked at when the process exits, by what the exiting thread holds itself. Called once,
   by whoever exits; locks as heap/exit.h says. */
#include "base/options.h"
#include "heap/exit.h"

__attribute__((destructor)) static void look(void)
{
    if (hak_options.exit_check) {
        hak_exit_look();
    }
}
