#define PADDLE_GLM_TRAINING kTrainingAvx512
#include "training_rows.h"
