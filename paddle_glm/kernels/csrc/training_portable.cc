#define PADDLE_GLM_TRAINING kTrainingPortable
#include "training_rows.h"
