/* What softcuda adds to the CUDA driver interface. A program that is to run on NVIDIA's driver,
 * too, looks these up (dlsym, libloading) and does without them where they are missing. */
#ifndef SOFTCUDA_H
#define SOFTCUDA_H

#ifdef __cplusplus
extern "C" {
#endif

/* All return CUresult: 0 for success. */

/* Names the allocation that holds `address`: counts and messages use the name. */
int softcudaLabel(unsigned long long address, const char *name);

/* What `ptxas -v` printed for the PTX of the modules loaded from now on; a null pointer takes it
 * back. It gives the registers of each kernel, and so the limits of its launches. */
int softcudaResources(const char *ptxas_output);

/* Of the calls of a kind ("alloc", "copy", "launch") from now on, the one of this number fails, as
 * with SOFTCUDA_FAULT; 0 for none. */
int softcudaFault(const char *kind, unsigned long long number);

/* Waits for all work, and writes the report of everything so far. */
int softcudaReport(const char *path);

#ifdef __cplusplus
}
#endif

#endif
