/* A library without anything in it, to preload. */
