/* A Python extension that leaks: parse(text) makes a copy of the text and forgets it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

static char *copy_text(const char *text, size_t size)
{
    char *copy = malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

static PyObject *parse(PyObject *self, PyObject *arguments)
{
    const char *text;
    Py_ssize_t size;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "s#", &text, &size)) {
        return NULL;
    }
    char *copy = copy_text(text, (size_t)size); /* it is never freed */
    return copy ? PyLong_FromLong(copy[0]) : PyErr_NoMemory();
}

static PyMethodDef methods[] = {{"parse", parse, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "parser", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_parser(void)
{
    return PyModule_Create(&module);
}
