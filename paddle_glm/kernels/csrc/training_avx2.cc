#define PADDLE_GLM_TRAINING kTrainingAvx2
#include "training_rows.h"
