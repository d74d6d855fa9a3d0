/* What the command says of itself: --help, manual pages and bash's completion, all from the table
   of subcommands. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "hakmem/hakmem.h"
#include "preload/subcommands.h"

const struct said exit_statuses[] = {
    {"0", "It is done; of `run`, `record` and others that run a program: the program's own."},
    {"128 + N", "`record`: signal N ended the program."},
    {"2", "Bad usage, or a file that cannot be read as what it should be."},
    {"125", "There is no library, or the program ran and nothing was recorded."},
    {"126", "The program cannot be run."},
    {"127", "The program is not found."},
    {NULL, NULL},
};

const struct said variables[] = {
    {"HAKMEM_LIBRARY",
     "The library to use. Otherwise libhakmem.so is looked for beside this program, in ../lib, in "
     "Debian's folder of the architecture, and in this program's Bazel runfiles. The variants that "
     "find more misuse lie in `hakmem` beside the library, for example "
     "hakmem/debug/libhakmem.so.0."},
    {"HAKMEM_SECURE_LIBRARY", "The same for --secure and libhakmem_secure.so."},
    {"HAKMEM_*",
     "Options of the library (hakmem(7), docs/options.md): HAKMEM_SHOW_STATS=1 prints its "
     "statistics when the program ends."},
    {NULL, NULL},
};

void print_usage(FILE *out)
{
    const char *prefix = "usage: ";
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        command_print_usage(out, prefix, *row);
        prefix = "       ";
    }
    fprintf(out, "%shakmem SUBCOMMAND --help | --help | -V\n", prefix);
}

static void print_said(FILE *out, const char *title, const struct said *row)
{
    fprintf(out, "\n%s:\n", title);
    for (; row->name; row++) {
        int n = fprintf(out, "  %-22s", row->name);
        command_print_folded(out, row->text, 26, n);
    }
}

void print_help(FILE *out)
{
    print_usage(out);
    fputc('\n', out);
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        fprintf(out, "  %-12s  %s\n", (*row)->name, (*row)->line);
    }
    print_said(out, "Exit status", exit_statuses);
    print_said(out, "Environment", variables);
}

/* Text for troff: no character of it is taken as a request or an escape. */
static void roff(FILE *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        int starts = c == text || c[-1] == '\n';
        if (starts && (*c == '.' || *c == '\'')) {
            fputs("\\&", out);
        }
        switch (*c) {
        case '\\':
            fputs("\\e", out);
            break;
        case '-':
            fputs("\\-", out);
            break;
        case '\'':
            fputs("\\(aq", out);
            break;
        case '\n':
            fputs(c[1] == '\n' ? "\n.PP" : "\n", out);
            break;
        default:
            fputc(*c, out);
        }
    }
}

/* A sentence, from a verb in the third person. */
static void roff_sentence(FILE *out, const char *text)
{
    char first[2] = {(char)toupper((unsigned char)*text), '\0'};
    roff(out, first);
    roff(out, text + 1);
    fputs(".\n", out);
}

static void roff_usage(FILE *out, const struct subcommand *one)
{
    fputs(".B hakmem ", out);
    roff(out, one->name);
    fputc('\n', out);
    for (const struct command_option *o = one->options; o && o->id; o++) {
        fputs("[\\fB", out);
        if (o->id < 256) {
            fprintf(out, "\\-%c", o->id);
        } else {
            fputs("\\-\\-", out);
            roff(out, o->name);
        }
        fputs("\\fR", out);
        if (o->argument) {
            fprintf(out, " \\fI%s\\fR", o->argument);
        }
        fputs("]\n", out);
    }
    if (*one->operands) {
        fputs(".I ", out);
        roff(out, one->operands);
        fputc('\n', out);
    }
}

static void roff_options(FILE *out, const struct subcommand *one)
{
    fputs(".SH OPTIONS\n", out);
    for (const struct command_option *o = one->options; o && o->id; o++) {
        fputs(".TP\n.B ", out);
        if (o->id < 256) {
            fprintf(out, "\\-%c%s", o->id, o->name ? ", " : "");
        }
        if (o->name) {
            fputs("\\-\\-", out);
            roff(out, o->name);
        }
        if (o->argument) {
            fprintf(out, " \\fI%s\\fR", o->argument);
        }
        fputc('\n', out);
        roff_sentence(out, o->text);
    }
    fputs(".TP\n.B \\-h, \\-\\-help\nPrints a summary.\n", out);
}

static void roff_title(FILE *out, const char *name)
{
    fputs(".\\\" Printed by `hakmem help --manual` from the table of subcommands; do not edit.\n",
          out);
    fputs(".TH ", out);
    for (const char *c = name; *c; c++) {
        if (*c == '-') {
            fputs("\\-", out);
        } else {
            fputc(toupper((unsigned char)*c), out);
        }
    }
    fputs(" 1 \"\" \"hakmem " HAKMEM_VERSION "\" \"User Commands\"\n.SH NAME\n", out);
    roff(out, name);
    fputs(" \\- ", out);
}

static void roff_said(FILE *out, const char *title, const struct said *row)
{
    fprintf(out, ".SH %s\n", title);
    for (; row->name; row++) {
        fputs(".TP\n.B ", out);
        roff(out, row->name);
        fputc('\n', out);
        roff(out, row->text);
        fputc('\n', out);
    }
}

static void manual_of_command(FILE *out)
{
    roff_title(out, "hakmem");
    fputs("runs programs under the hakmem memory allocator, and asks about them\n.SH SYNOPSIS\n",
          out);
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        fputs(row == subcommands ? "" : ".br\n", out);
        roff_usage(out, *row);
    }
    fputs(".br\n.B hakmem \\-\\-help\n|\n.B \\-V\n.SH DESCRIPTION\n", out);
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        fputs(".TP\n.B ", out);
        roff(out, (*row)->name);
        fputc('\n', out);
        roff_sentence(out, (*row)->line);
        fputs(".BR hakmem\\-", out);
        roff(out, (*row)->name);
        fputs(" (1)\n", out);
    }
    roff_said(out, "EXIT STATUS", exit_statuses);
    roff_said(out, "ENVIRONMENT", variables);
    fputs(".SH EXAMPLES\n.EX\nhakmem run redis\\-server \\-\\-port 7000\n"
          "LD_PRELOAD=$(hakmem path) python3 script.py\n"
          "hakmem record \\-o my.trace my_program\n.EE\n"
          ".SH SEE ALSO\n.BR malloc (3),\n.BR hakmem (3),\n.BR hakmem (7)\n",
          out);
}

void print_manual(FILE *out, const struct subcommand *one)
{
    if (!one) {
        manual_of_command(out);
        return;
    }
    char name[64];
    snprintf(name, sizeof name, "hakmem-%s", one->name);
    roff_title(out, name);
    roff(out, one->line);
    fputs("\n.SH SYNOPSIS\n", out);
    roff_usage(out, one);
    fputs(".SH DESCRIPTION\n", out);
    roff_sentence(out, one->line);
    if (one->text) {
        fputs(".PP\n", out);
        roff(out, one->text);
        fputc('\n', out);
    }
    roff_options(out, one);
    fputs(".SH SEE ALSO\n.BR hakmem (1),\n.BR hakmem (7)\n", out);
}

void print_manuals(FILE *out)
{
    fputs(".\\\" Page hakmem\n", out);
    print_manual(out, NULL);
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        fprintf(out, ".\\\" Page hakmem-%s\n", (*row)->name);
        print_manual(out, *row);
    }
}

static void completion_of(FILE *out, const struct subcommand *one)
{
    fprintf(out, "    %s)\n        options='", one->name);
    for (const struct command_option *o = one->options; o && o->id; o++) {
        if (o->name) {
            fprintf(out, "--%s ", o->name);
        } else {
            fprintf(out, "-%c ", o->id);
        }
    }
    fputs("--help' with_argument='", out);
    for (const struct command_option *o = one->options; o && o->id; o++) {
        if (o->argument && o->id < 256) {
            fprintf(out, " -%c=%s", o->id, o->argument);
        }
        if (o->argument && o->name) {
            fprintf(out, " --%s=%s", o->name, o->argument);
        }
    }
    fprintf(out, " ' operands='%s'\n        ;;\n", one->operands);
}

static const char completion_head[] =
    "# Completion of the `hakmem` command, for bash: printed by `hakmem help --completion`.\n"
    "# shellcheck shell=bash\n"
    "\n"
    "# Offers what a name in a usage line stands for.\n"
    "_hakmem_offer()\n"
    "{\n"
    "    case $1 in\n"
    "    *PROGRAM*) mapfile -t COMPREPLY < <(compgen -c -- \"$word\") ;;\n"
    "    *FILE*) mapfile -t COMPREPLY < <(compgen -f -- \"$word\") ;;\n"
    "    *PID*) mapfile -t COMPREPLY < <(cd /proc && compgen -G \"$word*\" -X '!+([0-9])') ;;\n"
    "    *SUBCOMMAND*) mapfile -t COMPREPLY < <(compgen -W \"$commands\" -- \"$word\") ;;\n"
    "    esac\n"
    "}\n"
    "\n"
    "_hakmem()\n"
    "{\n"
    "    local word=${COMP_WORDS[COMP_CWORD]} i=2 options with_argument operands argument\n"
    "    local commands='";

static const char completion_middle[] =
    "'\n"
    "    COMPREPLY=()\n"
    "    if ((COMP_CWORD == 1)); then\n"
    "        mapfile -t COMPREPLY < <(compgen -W \"$commands --version --help\" -- \"$word\")\n"
    "        return\n"
    "    fi\n"
    "    case ${COMP_WORDS[1]} in\n";

static const char completion_tail[] =
    "    *) return ;;\n"
    "    esac\n"
    "    # Where the operands begin: behind the options and their arguments.\n"
    "    while ((i < COMP_CWORD)) && [[ ${COMP_WORDS[i]} == -* ]]; do\n"
    "        if [[ ${COMP_WORDS[i]} == -- ]]; then\n"
    "            i=$((i + 1)) options=''\n"
    "            break\n"
    "        fi\n"
    "        argument=''\n"
    "        if [[ $with_argument == *\" ${COMP_WORDS[i]}=\"* ]]; then\n"
    "            argument=${with_argument#*\" ${COMP_WORDS[i]}=\"}\n"
    "            argument=${argument%% *}\n"
    "            i=$((i + 1))\n"
    "            if ((i == COMP_CWORD)); then\n"
    "                _hakmem_offer \"$argument\"\n"
    "                return\n"
    "            fi\n"
    "        fi\n"
    "        i=$((i + 1))\n"
    "    done\n"
    "    if ((i < COMP_CWORD)); then\n"
    "        [[ $operands != *PROGRAM* ]] || mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
    "    elif [[ $word == -* ]]; then\n"
    "        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$word\")\n"
    "    else\n"
    "        _hakmem_offer \"$operands\"\n"
    "    fi\n"
    "}\n"
    "complete -o filenames -F _hakmem hakmem\n";

void print_completion(FILE *out)
{
    fputs(completion_head, out);
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        fprintf(out, "%s%s", row == subcommands ? "" : " ", (*row)->name);
    }
    fputs(completion_middle, out);
    for (const struct subcommand *const *row = subcommands; *row; row++) {
        completion_of(out, *row);
    }
    fputs(completion_tail, out);
}
