/* A consumer's source that includes one of hakmem's headers and no other. */
#include HEADER

int this_is_no_empty_file;
